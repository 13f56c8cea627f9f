//! The records of a cache to be written: keys and what leads to them, each once.

use std::collections::{BTreeSet, HashMap};

use crate::store::Snapshot;

/// All records, by number.
#[derive(Default)]
pub struct Chains {
    records: Vec<Record>,
    roots: HashMap<String, usize>,
    users: HashMap<User, BTreeSet<usize>>,
}

/// One key.
#[derive(Default)]
pub struct Record {
    /// Hash of the op's digest and the output.
    pub digest: String,
    /// By input of the op; none of a root.
    pub inputs: Vec<BTreeSet<Link>>,
    /// The newest result.
    pub result: Option<Found>,
}

/// One way in which an input may be known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    pub record: usize,
    /// Empty: none.
    pub selector: String,
}

/// A stored result.
#[derive(Clone)]
pub struct Found {
    pub snapshot: Snapshot,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

/// A record seen from one of its inputs.
#[derive(PartialEq, Eq, Hash)]
struct User {
    digest: String,
    input: usize,
    link: Link,
}

impl Chains {
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The record of a key without inputs.
    pub fn root(&mut self, digest: &str) -> usize {
        if let Some(known) = self.roots.get(digest) {
            return *known;
        }
        let number = self.push(Record {
            digest: digest.to_owned(),
            ..Record::default()
        });
        self.roots.insert(digest.to_owned(), number);
        number
    }

    /// The record of a key with inputs: the known one that every input leads to, with these links
    /// added, or a new one. `None` when an input has no link: nobody could find it.
    pub fn add(&mut self, digest: &str, inputs: Vec<BTreeSet<Link>>) -> Option<usize> {
        if inputs.is_empty() || inputs.iter().any(BTreeSet::is_empty) {
            return None;
        }
        let known = self.known(digest, &inputs);
        let (number, below) = match known {
            Some(number) => (number, self.above(number)),
            None => {
                let record = Record {
                    digest: digest.to_owned(),
                    inputs: vec![BTreeSet::new(); inputs.len()],
                    result: None,
                };
                (self.push(record), BTreeSet::new())
            }
        };
        for (input, links) in inputs.into_iter().enumerate() {
            // A record must not lead to itself.
            for link in links.into_iter().filter(|l| !below.contains(&l.record)) {
                self.users
                    .entry(User {
                        digest: digest.to_owned(),
                        input,
                        link: link.clone(),
                    })
                    .or_default()
                    .insert(number);
                if let Some(links) = self
                    .records
                    .get_mut(number)
                    .and_then(|record| record.inputs.get_mut(input))
                {
                    links.insert(link);
                }
            }
        }
        Some(number)
    }

    /// A newer result takes the place of an older one.
    pub fn set_result(&mut self, number: usize, found: Found) {
        if let Some(record) = self.records.get_mut(number)
            && record
                .result
                .as_ref()
                .is_none_or(|known| known.created_at < found.created_at)
        {
            record.result = Some(found);
        }
    }

    fn push(&mut self, record: Record) -> usize {
        self.records.push(record);
        self.records.len() - 1
    }

    fn known(&self, digest: &str, inputs: &[BTreeSet<Link>]) -> Option<usize> {
        let mut common: Option<BTreeSet<usize>> = None;
        for (input, links) in inputs.iter().enumerate() {
            let mut found = BTreeSet::new();
            for link in links {
                let user = User {
                    digest: digest.to_owned(),
                    input,
                    link: link.clone(),
                };
                found.extend(self.users.get(&user).into_iter().flatten().copied());
            }
            common = Some(match common {
                Some(common) => common.intersection(&found).copied().collect(),
                None => found,
            });
        }
        // Equal inputs in equal numbers: the op's digest says how many there are.
        common?.into_iter().find(|number| {
            let record = self.records.get(*number);
            record.is_some_and(|record| record.inputs.len() == inputs.len())
        })
    }

    /// The record and all that it leads to.
    fn above(&self, number: usize) -> BTreeSet<usize> {
        let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
        for (user, record) in self.records.iter().enumerate() {
            for link in record.inputs.iter().flatten() {
                users.entry(link.record).or_default().push(user);
            }
        }
        let mut found = BTreeSet::new();
        let mut stack = vec![number];
        while let Some(number) = stack.pop() {
            if found.insert(number) {
                stack.extend(users.get(&number).into_iter().flatten().copied());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(record: usize) -> BTreeSet<Link> {
        let selector = String::new();
        BTreeSet::from([Link { record, selector }])
    }

    #[test]
    fn one_common_link_on_every_input_makes_records_the_same() {
        let mut chains = Chains::default();
        let (a, b, c) = (chains.root("a"), chains.root("b"), chains.root("c"));
        assert_eq!(chains.root("a"), a);
        let both = link(a).union(&link(b)).cloned().collect();
        let one = chains.add("op", vec![both]).unwrap();
        assert_eq!(chains.add("op", vec![link(b)]).unwrap(), one);
        assert_ne!(chains.add("op", vec![link(c)]).unwrap(), one);
        assert_ne!(chains.add("other", vec![link(b)]).unwrap(), one);
        assert_ne!(chains.add("op", vec![link(b), link(b)]).unwrap(), one);
    }

    #[test]
    fn a_record_whose_input_nobody_knows_is_left_out() {
        let mut chains = Chains::default();
        let a = chains.root("a");
        assert_eq!(chains.add("op", vec![link(a), BTreeSet::new()]), None);
    }

    #[test]
    fn a_record_never_leads_to_itself() {
        let mut chains = Chains::default();
        let a = chains.root("a");
        let one = chains.add("op", vec![link(a)]).unwrap();
        let both: BTreeSet<Link> = link(a).union(&link(one)).cloned().collect();
        assert_eq!(chains.add("op", vec![both]).unwrap(), one);
        assert_eq!(chains.records()[one].inputs, [link(a)]);
    }
}
