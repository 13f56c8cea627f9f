//! The environment of a state.

use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

/// An ordered list of variables. Setting one again moves it to the end, as BuildKit's client
/// does: the order enters the digest of every exec op.
///
/// Each call takes about the same time however many variables there are, copying it as well: build files have
/// thousands, set and read them one by one, and every step keeps those that it had.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// By place: names and values, oldest first.
    places: RedBlackTreeMapSync<u64, (Arc<str>, Arc<str>)>,
    /// The place of each name.
    names: HashTrieMapSync<Arc<str>, u64>,
    /// The place of the next variable.
    next: u64,
    /// Bytes of all names and values.
    bytes: usize,
}

impl Env {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.places.get(self.names.get(key)?)?;
        Some(value)
    }

    /// Sets `key`, as the newest variable.
    pub fn set(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let (key, value) = (key.into(), value.into());
        self.remove(&key);
        self.bytes += key.len() + value.len();
        self.names.insert_mut(Arc::clone(&key), self.next);
        self.places.insert_mut(self.next, (key, value));
        self.next += 1;
    }

    /// Sets many variables, in order.
    pub fn set_all<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (key, value) in pairs {
            self.set(key, value);
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        let Some(place) = self.names.get(key).copied() else {
            return;
        };
        if let Some((key, value)) = self.places.get(&place) {
            self.bytes -= key.len() + value.len();
        }
        self.names.remove_mut(key);
        self.places.remove_mut(&place);
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.places.size()
    }

    /// How many bytes all names and values have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The names, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.values().map(|(key, _)| &**key)
    }

    /// Names and values, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.places.values().map(|(k, v)| (&**k, &**v))
    }

    /// `KEY=VALUE` strings, oldest first.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }
}

/// Equal variables in the same order, whatever was set in between.
impl PartialEq for Env {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Env {}

#[cfg(test)]
mod tests {
    use super::Env;
    use proptest::prelude::*;

    #[test]
    fn a_variable_that_is_set_again_moves_to_the_end() {
        let mut env = Env::default();
        env.set("A", "1");
        env.set("B", "2");
        env.set("A", "3");
        assert_eq!(env.to_strings(), ["B=2", "A=3"]);
        assert_eq!(env.get("A"), Some("3"));
    }

    proptest! {
        #[test]
        fn it_is_a_list_whose_newest_variable_is_last(
            changes in prop::collection::vec(("[A-E]", "[01]", any::<bool>()), 0..40),
        ) {
            let mut env = Env::default();
            let mut list: Vec<(String, String)> = Vec::new();
            for (key, value, remove) in changes {
                list.retain(|(known, _)| *known != key);
                if remove {
                    env.remove(&key);
                } else {
                    env.set(key.as_str(), value.as_str());
                    list.push((key, value));
                }
                let have: Vec<(&str, &str)> = env.iter().collect();
                let want: Vec<(&str, &str)> = list.iter().map(|(k, v)| (&**k, &**v)).collect();
                prop_assert_eq!(have, want);
                prop_assert_eq!(env.len(), list.len());
                let bytes: usize = list.iter().map(|(k, v)| k.len() + v.len()).sum();
                prop_assert_eq!(env.bytes(), bytes);
                for name in ["A", "B", "C", "D", "E"] {
                    let value = list.iter().find(|(known, _)| known == name);
                    prop_assert_eq!(env.get(name), value.map(|(_, value)| value.as_str()));
                }
            }
        }
    }
}
