//! The environment of a state.

use std::collections::HashSet;

/// An ordered list of variables. Setting one again moves it to the end, as BuildKit's client
/// does: the order enters the digest of every exec op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env(Vec<(String, String)>);

impl Env {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Sets `key`, as the newest variable.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        self.0.retain(|(k, _)| *k != key);
        self.0.push((key, value.into()));
    }

    /// Sets many variables, in order; as many calls of [`Env::set`], but in one pass.
    pub fn set_all<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut newest: Vec<(&str, &str)> = pairs.into_iter().collect();
        let mut seen = HashSet::new();
        // The last of equal names counts, in its own place.
        newest.reverse();
        newest.retain(|(key, _)| seen.insert(*key));
        newest.reverse();
        self.0.retain(|(key, _)| !seen.contains(key.as_str()));
        self.0.extend(
            newest
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(k, _)| k != key);
    }

    /// The names, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.as_str())
    }

    /// Names and values, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// `KEY=VALUE` strings, oldest first.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Env;

    #[test]
    fn setting_many_is_setting_each() {
        let pairs = [("B", "1"), ("C", "2"), ("B", "3"), ("A", "4")];
        let mut one = Env::default();
        one.set("A", "0");
        one.set("Z", "0");
        let mut many = one.clone();
        for (key, value) in pairs {
            one.set(key, value);
        }
        many.set_all(pairs);
        assert_eq!(one, many);
    }

    #[test]
    fn a_variable_that_is_set_again_moves_to_the_end() {
        let mut env = Env::default();
        env.set("A", "1");
        env.set("B", "2");
        env.set("A", "3");
        assert_eq!(env.to_strings(), ["B=2", "A=3"]);
        assert_eq!(env.get("A"), Some("3"));
    }
}
