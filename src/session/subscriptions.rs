//! What a session hears about. Most sessions hear about one document, so one costs no allocation.

use super::Subscription;
use std::ops::{Deref, DerefMut};

/// A list of subscriptions, read as a slice.
#[derive(Debug, Default)]
pub enum Subscriptions {
    /// None.
    #[default]
    None,
    /// One, in place.
    One(Subscription),
    /// Several.
    Many(Box<Vec<Subscription>>),
}

const _: () = assert!(size_of::<Subscriptions>() <= 16);

impl Subscriptions {
    /// Appends one.
    pub fn push(&mut self, subscription: Subscription) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(subscription),
            Self::One(first) => Self::Many(Box::new(vec![first, subscription])),
            Self::Many(mut many) => {
                many.push(subscription);
                Self::Many(many)
            }
        };
    }

    /// Takes out the one at `at`, which must exist; the last one takes its place.
    pub fn swap_remove(&mut self, at: usize) -> Subscription {
        match std::mem::take(self) {
            Self::One(only) if at == 0 => only,
            Self::Many(mut many) => {
                let removed = many.swap_remove(at);
                *self = if let [only] = many[..] {
                    Self::One(only)
                } else {
                    Self::Many(many)
                };
                removed
            }
            _ => panic!("no subscription at {at}"),
        }
    }
}

impl Deref for Subscriptions {
    type Target = [Subscription];

    fn deref(&self) -> &[Subscription] {
        match self {
            Self::None => &[],
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(many) => many,
        }
    }
}

impl DerefMut for Subscriptions {
    fn deref_mut(&mut self) -> &mut [Subscription] {
        match self {
            Self::None => &mut [],
            Self::One(only) => std::slice::from_mut(only),
            Self::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Interest;

    #[test]
    fn it_behaves_like_a_vector() {
        let subscription = |audience| Subscription {
            audience,
            position: 0,
            interest: Interest::DOCUMENT,
        };
        let mut list = Subscriptions::default();
        let mut model: Vec<u32> = Vec::new();
        for step in 0..200u32 {
            if step % 7 < 4 {
                list.push(subscription(step));
                model.push(step);
            } else {
                let at = step as usize % model.len();
                assert_eq!(list.swap_remove(at).audience, model.swap_remove(at));
            }
            assert!(list.iter().map(|held| held.audience).eq(model.iter().copied()));
            if let Some(first) = list.first_mut() {
                first.position = step;
            }
        }
        while !model.is_empty() {
            assert_eq!(list.swap_remove(0).audience, model.swap_remove(0));
        }
        assert!(list.is_empty());
    }
}
