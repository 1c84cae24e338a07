//! The home side looks at rows again (docs/protocol.md §19.2): a node stores what it accepts and says it over the bus. If
//! that was lost and the node with it, nobody is left who knows what the others lack, but the row does.
//!
//! Rows of loaded documents are read again once after a node was lost, up to [`REREAD_STEP_HURRIED`] per tick and shard,
//! and otherwise once a minute, up to [`REREAD_STEP`]. What has changes of its own to store is left out, because a store
//! meets the newer row anyway. A full queue of the database ends the step.

use super::Shard;
use super::cluster::{NODES_TICK_US, REREAD_STEP, REREAD_STEP_HURRIED, SWEEP_ROUND_US};
use crate::saved::Loaded;

impl Shard {
    /// Asks for the rows that are due.
    pub(super) fn reread_rows(&mut self) {
        let (now_us, places) = (self.now.mono_us, self.library.places());
        if self.context.storage.is_none() || places == 0 {
            return;
        }
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        if cluster.has_lost_node(now_us) {
            cluster.reread_hurried = places;
        }
        cluster.reread_due += places.min(1 << 32) as u64 * NODES_TICK_US;
        let even = (cluster.reread_due / SWEEP_ROUND_US) as usize;
        cluster.reread_due %= SWEEP_ROUND_US;
        let step = match cluster.reread_hurried {
            0 => even.min(REREAD_STEP),
            hurried => hurried.min(REREAD_STEP_HURRIED),
        };
        let first = cluster.reread_next % places;
        let mut done = 0;
        while done < step.min(places) && self.reread_row(((first + done) % places) as u32) {
            done += 1;
        }
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.reread_next = (first + done) % places;
            cluster.reread_hurried = cluster.reread_hurried.saturating_sub(done);
        }
    }

    /// Asks for one row if it may tell something. `false`: the database takes no question now.
    fn reread_row(&mut self, place: u32) -> bool {
        let Some(shelf) = self.library.at(place) else {
            return true;
        };
        let is_stored = |durable: &super::storehouse::Durable| durable.under_way.is_none() && durable.is_saved();
        let may_tell = shelf.durable.as_deref().is_none_or(is_stored);
        let reading = shelf.shared.as_ref().is_none_or(|shared| shared.rereading);
        if !may_tell || reading {
            return true;
        }
        let document = shelf.id.clone();
        let submitted = self.submit_load(&document);
        // Until it is answered the document stays: the answer must not be taken for that of a later load.
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            shared.rereading = submitted;
        }
        submitted
    }

    /// The row of a document that is here already.
    pub(super) fn reread(&mut self, loaded: Loaded) {
        let Some(place) = self.library.find(&loaded.document) else {
            return;
        };
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            shared.rereading = false;
        }
        let Ok(Some((version, row))) = loaded.found else { return };
        let known = self.library.at(place).and_then(|shelf| shelf.durable.as_ref());
        if self.cluster.is_some() && known.is_none_or(|known| known.version != version) && self.merge_row(place, row) {
            self.metrics.nodes.repaired += 1;
        }
    }
}
