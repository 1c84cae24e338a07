//! Reads a state in any layout: members in any order, unknown members, white space, escapes of every kind.
//!
//! Typed visitors over `serde_json` write straight into the [`Builder`]; no tree is built. Nesting is bounded by the
//! shape for known members, and unknown members are skipped without recursion. Of a member that comes twice the last
//! one counts, as in the clients' own parsers.

use super::TextError;
use super::blocks::{Client, Origin};
use super::builder::{Builder, Entry, INTEGER_MAX};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Fills the builder or says why the state is refused.
pub(super) fn read(json: &str, builder: &mut Builder) -> Result<(), TextError> {
    let mut sink = Sink { builder, fault: None };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = deserializer
        .deserialize_map(State(&mut sink))
        .and_then(|()| deserializer.end());
    read.map_err(|error| match sink.fault {
        Some(fault) => fault,
        None if error.is_data() => TextError::WrongType,
        None => TextError::NotJson,
    })
}

struct Sink<'b, 'l> {
    builder: &'b mut Builder<'l>,
    /// The reason behind a custom error, which serde can only carry as text.
    fault: Option<TextError>,
}

impl Sink<'_, '_> {
    fn refuse<E: serde::de::Error>(&mut self, fault: TextError) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn check<T, E: serde::de::Error>(&mut self, result: Result<T, TextError>) -> Result<T, E> {
        result.map_err(|fault| self.refuse(fault))
    }
}

/// The whole state.
struct State<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> Visitor<'de> for State<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text state")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_blocks = false;
        while let Some(member) = map.next_key_seed(Member(&["blocks", "clock", "client_id"]))? {
            match member {
                Some(0) => {
                    self.0.builder.forget_blocks();
                    map.next_value_seed(List(self.0))?;
                    has_blocks = true;
                }
                Some(1) => {
                    let value = map.next_value_seed(Clock)?;
                    let value = value.ok_or_else(|| self.0.refuse(TextError::Missing("clock.value")))?;
                    self.0.builder.clock = Some(value);
                }
                Some(2) => {
                    map.next_value_seed(ReplicaId(self.0))?;
                    self.0.builder.has_client_id = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !has_blocks {
            return Err(self.0.refuse(TextError::Missing("blocks")));
        }
        Ok(())
    }
}

/// The value of `blocks`.
struct List<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for List<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of pairs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Pair(self.0))?.is_some() {}
        Ok(())
    }
}

/// One `[ID, BLOCK]`.
struct Pair<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for Pair<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a pair")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(), A::Error> {
        let room = self.0.builder.check_room();
        self.0.check(room)?;
        let Some((client, clock)) = pair.next_element_seed(Id(self.0))? else {
            return Err(self.0.refuse(TextError::NotAPair));
        };
        let Some(content) = pair.next_element_seed(Content(self.0))? else {
            return Err(self.0.refuse(TextError::NotAPair));
        };
        if pair.next_element::<IgnoredAny>()?.is_some() {
            return Err(self.0.refuse(TextError::NotAPair));
        }
        self.0.builder.push(Entry {
            client,
            clock,
            ..content
        });
        Ok(())
    }
}

/// A BLOCK. The ID of the returned entry is void: the key of the pair is the identity.
struct Content<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for Content<'_, '_, '_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Content<'_, '_, '_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a block")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let start = self.0.builder.text.len();
        let mut entry = Entry {
            client: 0,
            clock: 0,
            left: Origin::NONE,
            right: Origin::NONE,
            deleted: false,
            start,
        };
        while let Some(member) = map.next_key_seed(Member(&["text", "left_origin", "right_origin", "deleted"]))? {
            match member {
                Some(0) => {
                    self.0.builder.text.truncate(start);
                    map.next_value_seed(Text(&mut self.0.builder.text))?;
                }
                Some(1) => entry.left = map.next_value_seed(MaybeId(self.0))?,
                Some(2) => entry.right = map.next_value_seed(MaybeId(self.0))?,
                Some(3) => entry.deleted = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(entry)
    }
}

/// An ID or null.
struct MaybeId<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for MaybeId<'_, '_, '_> {
    type Value = Origin;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Origin, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for MaybeId<'_, '_, '_> {
    type Value = Origin;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an ID or null")
    }

    fn visit_none<E>(self) -> Result<Origin, E> {
        Ok(Origin::NONE)
    }

    fn visit_unit<E>(self) -> Result<Origin, E> {
        Ok(Origin::NONE)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Origin, D::Error> {
        let (client, clock) = Id(self.0).deserialize(deserializer)?;
        Ok(Origin::new(client, clock))
    }
}

/// An ID, whose three members must all be there.
struct Id<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for Id<'_, '_, '_> {
    type Value = (Client, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(Client, u64), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Id<'_, '_, '_> {
    type Value = (Client, u64);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an ID")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(Client, u64), A::Error> {
        let (mut client, mut clock, mut offset) = (None, None, None);
        while let Some(member) = map.next_key_seed(Member(&["client_id", "clock", "offset"]))? {
            match member {
                Some(0) => client = Some(map.next_value_seed(ClientId(self.0))?),
                Some(1) => clock = Some(map.next_value_seed(Integer)?),
                Some(2) => offset = Some(map.next_value_seed(Integer)?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (client, clock, offset) {
            (Some(client), Some(clock), Some(0)) => Ok((client, clock)),
            (_, _, Some(1..)) => Err(self.0.refuse(TextError::OffsetNotZero)),
            (None, _, _) => Err(self.0.refuse(TextError::Missing("client_id"))),
            (_, None, _) => Err(self.0.refuse(TextError::Missing("clock"))),
            (_, _, None) => Err(self.0.refuse(TextError::Missing("offset"))),
        }
    }
}

/// The top-level `clock`: the `value` in it, if there is one.
struct Clock;

impl<'de> DeserializeSeed<'de> for Clock {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Clock {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a clock")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<u64>, A::Error> {
        let mut value = None;
        while let Some(member) = map.next_key_seed(Member(&["value"]))? {
            if member.is_some() {
                value = Some(map.next_value_seed(Integer)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}

/// The position of a member name in a list of known ones.
struct Member(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Member {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Member {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|&known| known == name))
    }
}

/// A client id that names characters, interned.
struct ClientId<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for ClientId<'_, '_, '_> {
    type Value = Client;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Client, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ClientId<'_, '_, '_> {
    type Value = Client;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a client id")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<Client, E> {
        let client = self.0.builder.client(id);
        self.0.check(client)
    }
}

/// The top-level `client_id`, of which only the form matters.
struct ReplicaId<'s, 'b, 'l>(&'s mut Sink<'b, 'l>);

impl<'de> DeserializeSeed<'de> for ReplicaId<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ReplicaId<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a client id")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<(), E> {
        let checked = self.0.builder.check_client_id(id);
        self.0.check(checked)
    }
}

/// A string appended to the buffer.
struct Text<'t>(&'t mut String);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

/// An integer in 0 ... 2^53-1 written as one: `1.0` and `1e3` are refused, as the clients refuse them.
struct Integer;

impl<'de> DeserializeSeed<'de> for Integer {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Integer {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an integer in 0 ... 2^53-1")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
        if value > INTEGER_MAX {
            return Err(E::custom("too large"));
        }
        Ok(value)
    }
}
