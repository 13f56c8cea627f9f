//! Clients that have not proved yet who they are. They hold no place of those who have, and only so many can be
//! on their way at once: whoever is last to come pushes out who has been waiting longest, of its own address first.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// On their way at once, to one listener. A client needs some milliseconds, or what its network does.
const MOST: usize = 512;
/// Of one address: a machine that begins a hundred builds at once makes some hundred connections.
const MOST_OF_ONE: usize = 256;

/// All of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Handshakes {
    pending: Arc<Mutex<Pending>>,
    most: usize,
    most_of_one: usize,
}

#[derive(Default)]
struct Pending {
    next: u64,
    /// In the order of their coming.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// One that is on its way, until dropped.
pub struct Handshake {
    all: Handshakes,
    number: u64,
    given_up: CancellationToken,
}

impl Default for Handshakes {
    fn default() -> Self {
        Handshakes::of(MOST, MOST_OF_ONE)
    }
}

/// Who has one address of a network of IPv6 has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        v4 => v4,
    }
}

impl Handshakes {
    fn of(most: usize, most_of_one: usize) -> Self {
        Handshakes {
            pending: Arc::default(),
            most,
            most_of_one,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; others may have to go.
    pub fn begin(&self, address: IpAddr) -> Handshake {
        let address = network(address);
        let given_up = CancellationToken::new();
        let mut pending = self.locked();
        let of_one = pending.of(address).count();
        if of_one >= self.most_of_one {
            pending.give_up_oldest(address);
        } else if pending.waiting.len() >= self.most
            && let Some(crowd) = pending.largest()
        {
            pending.give_up_oldest(crowd);
        }
        let number = pending.next;
        pending.next += 1;
        pending.waiting.insert(number, (address, given_up.clone()));
        Handshake {
            all: self.clone(),
            number,
            given_up,
        }
    }
}

impl Pending {
    fn of(&self, address: IpAddr) -> impl Iterator<Item = u64> {
        let of_one = self.waiting.iter();
        of_one.filter_map(move |(number, (other, _))| (*other == address).then_some(*number))
    }

    /// The address that has most on their way.
    fn largest(&self) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for (address, _) in self.waiting.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let largest = counts.into_iter().max_by_key(|(_, count)| *count);
        largest.map(|(address, _)| address)
    }

    fn give_up_oldest(&mut self, address: IpAddr) {
        let oldest = self.of(address).next();
        if let Some((_, given_up)) = oldest.and_then(|number| self.waiting.remove(&number)) {
            given_up.cancel();
        }
    }
}

impl Handshake {
    /// When it has to make room for another.
    pub async fn given_up(&self) {
        self.given_up.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.locked().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(handshakes: &[Handshake]) -> Vec<bool> {
        handshakes
            .iter()
            .map(|one| one.given_up.is_cancelled())
            .collect()
    }

    #[test]
    fn p55_the_oldest_of_an_address_that_has_too_many_goes_and_no_other() {
        let all = Handshakes::of(10, 3);
        let (crowd, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let alone = all.begin(other);
        let mut many: Vec<_> = (0..5).map(|_| all.begin(crowd)).collect();
        assert_eq!(go(&many), [true, true, false, false, false]);
        assert!(!alone.given_up.is_cancelled());
        // One that is done makes room.
        many.remove(4);
        let last = all.begin(crowd);
        assert_eq!(go(&many), [true, true, false, false]);
        drop((many, last, alone));
        assert!(all.locked().waiting.is_empty());
    }

    #[test]
    fn p55_when_there_are_too_many_the_largest_crowd_gives_way() {
        let all = Handshakes::of(6, 4);
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let few: Vec<_> = (0..2).map(|_| all.begin(address(1))).collect();
        let many: Vec<_> = (0..4).map(|_| all.begin(address(2))).collect();
        let one = all.begin(address(3));
        assert_eq!(go(&few), [false, false]);
        assert_eq!(go(&many), [true, false, false, false]);
        assert!(!one.given_up.is_cancelled());
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(network("10.0.0.1"), "10.0.0.1");
    }
}
