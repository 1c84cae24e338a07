//! Numbered places for things that come and go.
//!
//! They live in blocks that never move, so that a shard with a million documents neither copies them when one more comes
//! nor holds room for twice as many. A free place is given out again last in first out.

const BLOCK: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Slab<T> {
    blocks: Vec<Box<[Option<T>]>>,
    used: usize,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            used: 0,
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Gives something a place.
    pub fn insert(&mut self, thing: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            if self.used == self.blocks.len() * BLOCK {
                self.blocks.push((0..BLOCK).map(|_| None).collect());
            }
            self.used += 1;
            u32::try_from(self.used - 1).expect("places are numbered with 32 bits; memory ends long before")
        });
        self.blocks[place as usize / BLOCK][place as usize % BLOCK] = Some(thing);
        place
    }

    /// What is at a place.
    pub fn at(&self, place: u32) -> Option<&T> {
        self.blocks.get(place as usize / BLOCK)?[place as usize % BLOCK].as_ref()
    }

    /// What is at a place, to change it.
    pub fn at_mut(&mut self, place: u32) -> Option<&mut T> {
        self.blocks.get_mut(place as usize / BLOCK)?[place as usize % BLOCK].as_mut()
    }

    /// Empties a place.
    pub fn take(&mut self, place: u32) -> Option<T> {
        let taken = self.blocks.get_mut(place as usize / BLOCK)?[place as usize % BLOCK].take();
        if taken.is_some() {
            self.free.push(place);
        }
        taken
    }

    /// Places that have been given out so far, empty ones included.
    pub fn places(&self) -> usize {
        self.used
    }

    /// Everything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten().flatten()
    }

    /// Everything with its place, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let numbered = self.blocks.iter_mut().flatten().enumerate();
        numbered.filter_map(|(place, thing)| thing.as_mut().map(|thing| (place as u32, thing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_until_emptied_and_then_reused() {
        let mut slab = Slab::default();
        let places: Vec<u32> = (0..200).map(|number| slab.insert(number)).collect();
        assert_eq!(places, (0..200).collect::<Vec<_>>());
        assert_eq!((slab.take(70), slab.take(70), slab.at(70)), (Some(70), None, None));
        assert_eq!((slab.at(71), slab.at(5000)), (Some(&71), None));
        *slab.at_mut(3).unwrap() = 33;
        assert_eq!(slab.insert(700), 70);
        assert_eq!(slab.iter().count(), 200);
        assert_eq!(slab.iter_mut().map(|(place, _)| place).max(), Some(199));
        assert_eq!(slab.insert(201), 200);
    }
}
