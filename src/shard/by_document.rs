//! Things of which each belongs to one document, found by its id or by place: documents on their home, audiences elsewhere.

use super::slab::Slab;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::cell::Cell;
use std::hash::BuildHasher;

/// Belongs to a document.
pub(super) trait OfDocument {
    /// The document's id, which never changes.
    fn document(&self) -> &str;
}

/// See the module documentation. Every thing has a place until it is taken out.
#[derive(Debug)]
pub(super) struct ByDocument<T> {
    /// Places, hashed by the documents' ids.
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The place found last: messages about one document come in runs, and each asks more than once.
    last: Cell<u32>,
    things: Slab<T>,
}

impl<T> Default for ByDocument<T> {
    fn default() -> Self {
        Self {
            places: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            last: Cell::new(0),
            things: Slab::default(),
        }
    }
}

impl<T: OfDocument> ByDocument<T> {
    /// The place of the thing of that document, if there is one.
    pub fn find(&self, document: &str) -> Option<u32> {
        let is_it = |place: &u32| self.at(*place).is_some_and(|thing| thing.document() == document);
        if is_it(&self.last.get()) {
            return Some(self.last.get());
        }
        let found = self.places.find(self.hasher.hash_one(document), is_it).copied()?;
        self.last.set(found);
        Some(found)
    }

    /// What is at a place.
    pub fn at(&self, place: u32) -> Option<&T> {
        self.things.at(place)
    }

    /// What is at a place, to change it.
    pub fn at_mut(&mut self, place: u32) -> Option<&mut T> {
        self.things.at_mut(place)
    }

    /// Gives something a place. Its document has nothing yet.
    pub fn insert(&mut self, thing: T) -> u32 {
        let place = self.things.insert(thing);
        let (things, hasher) = (&self.things, &self.hasher);
        let hash_of = |place: &u32| things.at(*place).map_or(0, |thing| hasher.hash_one(thing.document()));
        self.places.insert_unique(hash_of(&place), place, hash_of);
        place
    }

    /// Takes out what is at a place.
    pub fn take(&mut self, place: u32) -> Option<T> {
        let thing = self.things.take(place)?;
        let hash = self.hasher.hash_one(thing.document());
        if let Ok(entry) = self.places.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        Some(thing)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Places that have been given out so far, empty ones included.
    pub fn places(&self) -> usize {
        self.things.places()
    }

    /// Everything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter()
    }

    /// Everything with its place, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.things.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OfDocument for &str {
        fn document(&self) -> &str {
            self
        }
    }

    #[test]
    fn what_was_found_last_is_not_found_when_it_is_gone_or_another_has_its_place() {
        let mut things = ByDocument::default();
        let red = things.insert("red");
        assert_eq!(things.find("red"), Some(red));
        assert_eq!(things.take(red), Some("red"));
        assert_eq!(things.find("red"), None);
        let green = things.insert("green");
        assert_eq!(green, red, "the place is given out again");
        assert_eq!((things.find("red"), things.find("green")), (None, Some(green)));
        assert_eq!(things.len(), 1);
    }
}
