//! `[[client]]`: which clients' builds may be granted what. A mistake here would grant too much or too little, so it is
//! an error; keys that nobody knows are told.

use std::collections::BTreeSet;
use std::str::FromStr;

use gateway_daemon::{Entitlement, Grants, Rule};

use super::file::strings;
use crate::build::like;

/// The keys of one table.
const KEYS: [&str; 5] = ["users", "groups", "certificates", "names", "entitlements"];

/// One table as it is written: names of this machine are looked up when the daemon starts.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ClientTable {
    /// The place in the file, from one.
    number: usize,
    users: Vec<String>,
    groups: Vec<String>,
    certificates: Vec<String>,
    names: Vec<String>,
    entitlements: Vec<String>,
}

/// The users and groups of this machine.
#[derive(Debug, Default)]
pub struct Accounts {
    /// As `/etc/passwd` and `/etc/group`.
    pub passwd: String,
    pub group: String,
    /// As `/proc/self/uid_map` and `gid_map`, in the user namespace that an ordinary user's daemon makes for itself:
    /// there clients have other ids than outside.
    pub namespace: Option<(String, String)>,
}

/// What the kernel says instead of ids that a namespace does not have.
const NOBODY: u32 = 65_534;

impl Accounts {
    pub fn of_this_machine(rootless: bool) -> std::io::Result<Accounts> {
        let maps = || {
            let read = std::fs::read_to_string;
            Ok::<_, std::io::Error>((read("/proc/self/uid_map")?, read("/proc/self/gid_map")?))
        };
        // Images of one program have neither.
        let list = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Ok(Accounts {
            passwd: list("/etc/passwd"),
            group: list("/etc/group"),
            namespace: rootless.then(maps).transpose()?,
        })
    }

    fn user(&self, text: &str) -> Result<u32, String> {
        let maps = self.namespace.as_ref();
        let map = maps.map(|(users, _)| users.as_str());
        id("user", text, &self.passwd, map)
    }

    fn group(&self, text: &str) -> Result<u32, String> {
        let maps = self.namespace.as_ref();
        let map = maps.map(|(_, groups)| groups.as_str());
        id("group", text, &self.group, map)
    }
}

/// The id of a name or number, as clients have it for this process.
fn id(what: &str, text: &str, list: &str, map: Option<&str>) -> Result<u32, String> {
    let number = || text.parse().ok();
    // Name, password, id: so far both files are alike.
    let named = list.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    });
    let outside: u32 = named
        .or_else(number)
        .ok_or_else(|| format!("no {what} of this machine is called {text:?}"))?;
    let Some(map) = map else {
        return Ok(outside);
    };
    let inside = map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, from, count) = (next()?, next()?, next()?);
        let distance = outside.checked_sub(from).filter(|at| *at < count)?;
        inside.checked_add(distance)
    });
    inside.filter(|id| *id != NOBODY).ok_or_else(|| {
        format!(
            "{what} {text} cannot be told from others: a daemon of an ordinary user sees its own {what} and subordinate \
             ids only"
        )
    })
}

/// # Errors
/// In words, without the number of the table.
fn table(
    number: usize,
    value: &toml::Value,
    notes: &mut Vec<String>,
) -> Result<ClientTable, String> {
    let value = value.as_table().ok_or("must be a table: [[client]]")?;
    let mut table = ClientTable {
        number,
        ..ClientTable::default()
    };
    for (key, value) in value {
        let place = match key.as_str() {
            "users" => &mut table.users,
            "groups" => &mut table.groups,
            "certificates" => &mut table.certificates,
            "names" => &mut table.names,
            "entitlements" => &mut table.entitlements,
            key => {
                let near = like(key, &KEYS)
                    .map_or_else(String::new, |near| format!("; {near} is like it"));
                notes.push(format!(
                    "unknown key {key} in [[client]] number {number}{near}"
                ));
                continue;
            }
        };
        *place = match (key.as_str(), numbers(value)) {
            ("users" | "groups", Some(numbers)) => numbers,
            _ => strings(key, value)?,
        };
    }
    if !value.contains_key("entitlements") {
        return Err("entitlements is missing; [] grants nothing".to_owned());
    }
    let who = [
        &table.users,
        &table.groups,
        &table.certificates,
        &table.names,
    ];
    if who.iter().all(|list| list.is_empty()) {
        return Err("it means nobody: name users, groups, certificates or names".to_owned());
    }
    Ok(table)
}

/// Ids may be written as numbers, beside names.
fn numbers(value: &toml::Value) -> Option<Vec<String>> {
    let list = value.as_array()?.iter();
    list.map(|entry| match entry {
        toml::Value::Integer(number) => Some(number.to_string()),
        entry => entry.as_str().map(str::to_owned),
    })
    .collect()
}

/// Reads all tables.
///
/// # Errors
/// In words that say which table it is.
pub fn tables(value: &toml::Value, notes: &mut Vec<String>) -> Result<Vec<ClientTable>, String> {
    let list = value
        .as_array()
        .ok_or("client must be a list of tables: [[client]]")?;
    let tables = list.iter().enumerate().map(|(at, value)| {
        let number = at + 1;
        table(number, value, notes)
            .map_err(|problem| format!("[[client]] number {number}: {problem}"))
    });
    tables.collect()
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(texts: &[String]) -> Result<Vec<T>, String> {
    let parse = |text: &String| text.parse().map_err(|error: T::Err| error.to_string());
    texts.iter().map(parse).collect()
}

fn rule(table: &ClientTable, accounts: &Accounts) -> Result<Rule, String> {
    let ids = |texts: &[String], id: &dyn Fn(&str) -> Result<u32, String>| {
        let ids = texts.iter().map(|text| id(text));
        ids.collect::<Result<BTreeSet<u32>, String>>()
    };
    Ok(Rule {
        users: ids(&table.users, &|text| accounts.user(text))?,
        groups: ids(&table.groups, &|text| accounts.group(text))?,
        certificates: parsed(&table.certificates)?.into_iter().collect(),
        names: parsed(&table.names)?.into_iter().collect(),
        entitlements: parsed(&table.entitlements)?,
    })
}

/// What the daemon goes by: the tables, and for clients that none of them means what is granted to all.
///
/// # Errors
/// In words that say which table it is.
pub fn grants(
    tables: &[ClientTable],
    others: Vec<Entitlement>,
    accounts: &Accounts,
) -> Result<Grants, String> {
    let rules = tables.iter().map(|table| {
        rule(table, accounts)
            .map_err(|problem| format!("[[client]] number {}: {problem}", table.number))
    });
    Ok(Grants {
        rules: rules.collect::<Result<_, _>>()?,
        others,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n7:x:70:70:::\n";
    const GROUP: &str = "root:x:0:\nbuilders:x:50:alice,bob\n";

    fn accounts(namespace: Option<(&str, &str)>) -> Accounts {
        Accounts {
            passwd: PASSWD.to_owned(),
            group: GROUP.to_owned(),
            namespace: namespace.map(|(users, groups)| (users.to_owned(), groups.to_owned())),
        }
    }

    fn read(text: &str, accounts: &Accounts) -> Result<(Grants, Vec<String>), String> {
        let document: toml::Table = text.parse().expect("TOML");
        let mut notes = Vec::new();
        let tables = tables(&document["client"], &mut notes)?;
        Ok((grants(&tables, Vec::new(), accounts)?, notes))
    }

    #[test]
    fn p39_clients_are_named_by_users_groups_and_certificates() {
        let text = format!(
            "[[client]]
users = [\"alice\", 12, \"34\"]
groups = [\"builders\"]
entitlements = [\"network.host\", \"device=v.com/gpu=0\"]
user = \"x\"
[[client]]
certificates = [\"{}\"]
names = [\"CN=bot\", \"DNS:ci.example\"]
entitlements = []
",
            "ab".repeat(32)
        );
        let (grants, notes) = read(&text, &accounts(None)).unwrap();
        let [first, second] = grants.rules.try_into().unwrap();
        assert_eq!(first.users, [1000, 12, 34].into());
        assert_eq!(first.groups, [50].into());
        assert_eq!(first.entitlements.len(), 2);
        assert_eq!((second.certificates.len(), second.names.len()), (1, 2));
        assert!(second.entitlements.is_empty());
        assert_eq!(
            notes,
            ["unknown key user in [[client]] number 1; users is like it"]
        );
        // A name beats the number that it looks like.
        let (grants, _) = read(
            "[[client]]\nusers = [\"7\"]\nentitlements = []",
            &accounts(None),
        )
        .unwrap();
        assert_eq!(grants.rules[0].users, [70].into());
    }

    #[test]
    fn p39_mistakes_about_clients_are_errors_that_say_where() {
        for (text, told) in [
            ("client = 1", "[[client]]"),
            ("[client]\nusers = [\"root\"]", "[[client]]"),
            ("[[client]]\nentitlements = []", "number 1: it means nobody"),
            (
                "[[client]]\nusers = []\nentitlements = []",
                "it means nobody",
            ),
            ("[[client]]\nusers = [\"root\"]", "entitlements is missing"),
            (
                "[[client]]\nusers = \"root\"\nentitlements = []",
                "users must be a list",
            ),
            (
                "[[client]]\nusers = [\"bob\"]\nentitlements = []",
                "no user of this machine is called \"bob\"",
            ),
            (
                "[[client]]\nusers = [-1]\nentitlements = []",
                "no user of this machine is called \"-1\"",
            ),
            (
                "[[client]]\ngroups = [\"alice\"]\nentitlements = []",
                "no group of this machine is called \"alice\"",
            ),
            (
                "[[client]]\nusers = [\"root\"]\nentitlements = [\"network\"]",
                "unknown entitlement \"network\"",
            ),
            (
                "[[client]]\nusers = [\"root\"]\nentitlements = []\n[[client]]\nnames = [\"x\"]\nentitlements = []",
                "number 2: \"x\" is no name",
            ),
            (
                "[[client]]\ncertificates = [\"x\"]\nentitlements = []",
                "is no fingerprint",
            ),
        ] {
            let error = read(text, &accounts(None)).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn p39_an_ordinary_users_daemon_knows_its_own_user_by_another_id() {
        let map = "0 1000 1\n1 100000 65536\n";
        let accounts = accounts(Some((map, "0 1000 1\n")));
        let users = |user: &str| {
            let text = format!("[[client]]\nusers = [\"{user}\"]\nentitlements = []");
            read(&text, &accounts).map(|(grants, _)| grants.rules[0].users.clone())
        };
        assert_eq!(users("alice").unwrap(), [0].into());
        assert_eq!(users("100004").unwrap(), [5].into());
        // Outside of the map, and where the kernel would say the same of everybody.
        for user in ["root", "1001", "165533"] {
            let error = users(user).unwrap_err();
            assert!(
                error.contains("cannot be told from others"),
                "{user}: {error}"
            );
        }
    }
}
