//! Who on this shard hears about which document.
//!
//! An [`Audience`] exists for every document that at least one local session subscribed to, wherever the document
//! lives. A fan-out reaches a shard once and is spread here. Sessions and audiences point at each other by position, so
//! that joining, leaving and finding take constant time whatever the number of listeners.

use super::by_document::{ByDocument, OfDocument};
use super::mail::DocumentId;
use super::sessions::Sessions;
use crate::ids::{ShardId, Slot};
use crate::session::{Interest, Subscription};

/// One local listener: the session's slot and the position of this subscription in the session's list.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The session.
    pub slot: Slot,
    subscription: u32,
}

impl Listener {
    /// What the listener hears of the document.
    pub fn interest(&self, sessions: &Sessions) -> Interest {
        let session = sessions.at(self.slot);
        let held = session.and_then(|session| session.subscriptions.get(self.subscription as usize));
        held.map(|held| held.interest).unwrap_or_default()
    }
}

/// The local listeners of one document.
#[derive(Debug)]
pub struct Audience {
    /// Which document.
    pub document: DocumentId,
    /// Where it lives.
    pub home: ShardId,
    /// Who listens here.
    pub listeners: Vec<Listener>,
}

impl OfDocument for Audience {
    fn document(&self) -> &str {
        &self.document
    }
}

/// All audiences of a shard.
#[derive(Debug, Default)]
pub struct Audiences {
    entries: ByDocument<Audience>,
}

impl Audiences {
    /// The audience of a document, if anybody here listens.
    pub fn find(&self, document: &str) -> Option<u32> {
        self.entries.find(document)
    }

    /// An audience that [`Audiences::find`] or a subscription named.
    pub fn at(&self, audience: u32) -> &Audience {
        self.entries.at(audience).expect("subscriptions name live audiences")
    }

    /// Subscriptions on this shard, all documents together.
    pub fn listeners(&self) -> usize {
        self.entries.iter().map(|audience| audience.listeners.len()).sum()
    }

    /// Adds an interest of a session in a document. Returns the audience.
    pub fn join(
        &mut self,
        sessions: &mut Sessions,
        slot: Slot,
        document: &DocumentId,
        home: ShardId,
        interest: Interest,
    ) -> Option<u32> {
        let session = sessions.at_mut(slot)?;
        let audience = match self.find(document) {
            Some(audience) => audience,
            None => self.create(document, home),
        };
        if let Some(held) = session.subscriptions.iter_mut().find(|held| held.audience == audience) {
            held.interest = held.interest.with(interest);
            return Some(audience);
        }
        let listeners = &mut self.entries.at_mut(audience).expect("found or made above").listeners;
        let position = listeners.len() as u32;
        listeners.push(Listener {
            slot,
            subscription: session.subscriptions.len() as u32,
        });
        session.subscriptions.push(Subscription {
            audience,
            position,
            interest,
        });
        Some(audience)
    }

    /// Ends a session's subscription at that place of its list. Returns the document.
    pub fn leave(&mut self, sessions: &mut Sessions, slot: Slot, subscription: usize) -> Option<DocumentId> {
        let session = sessions.at_mut(slot)?;
        if subscription >= session.subscriptions.len() {
            return None;
        }
        let left = session.subscriptions.swap_remove(subscription);
        if let Some(moved) = session.subscriptions.get(subscription) {
            let listeners = &mut self.entries.at_mut(moved.audience).expect("live audience").listeners;
            listeners[moved.position as usize].subscription = subscription as u32;
        }
        let audience = self.entries.at_mut(left.audience).expect("live audience");
        let document = audience.document.clone();
        audience.listeners.swap_remove(left.position as usize);
        if let Some(moved) = audience.listeners.get(left.position as usize) {
            let other = sessions.at_mut(moved.slot).expect("listeners are live sessions");
            other.subscriptions[moved.subscription as usize].position = left.position;
        } else if audience.listeners.is_empty() {
            self.entries.take(left.audience);
        }
        Some(document)
    }

    fn create(&mut self, document: &DocumentId, home: ShardId) -> u32 {
        self.entries.insert(Audience {
            document: document.clone(),
            home,
            listeners: Vec::new(),
        })
    }
}
