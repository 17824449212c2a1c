//! Which monitor to talk to: the decision, without the network.
//!
//! Any monitor takes any call, so the only questions are which is best and when to change. Best is the leader
//! itself: everybody who knows tells us, with the term, and of several leaders the one of the highest term is
//! right. If there is no connection to it, another monitor passes calls on; we stay with that one as long as
//! it lasts, unless it says that it knows no leader while others may.

use std::collections::BTreeMap;

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Route {
    monitors: BTreeMap<String, Monitor>,
    leader: Option<(u64, String)>,
    /// The one that passes calls on while the leader cannot be reached.
    helper: Option<String>,
    /// Counts refusals.
    refusals: u64,
}

#[derive(Default, Debug)]
struct Monitor {
    is_connected: bool,
    /// The number of its last refusal: who refused longest ago is asked first.
    refused: u64,
}

/// Whom to talk to, and which term we believe that this is about: what one of them was told in another term it
/// has to be told again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) address: String,
    /// 0 as long as nobody has said who leads.
    pub(super) term: u64,
}

impl Route {
    /// Whether that monitor was not known before.
    pub(super) fn learn(&mut self, address: &str) -> bool {
        let is_new = !self.monitors.contains_key(address);
        if is_new {
            self.monitors.insert(address.to_owned(), Monitor::default());
        }
        is_new
    }

    /// There is no such monitor any more.
    pub(super) fn forget(&mut self, address: &str) {
        self.monitors.remove(address);
        self.helper.take_if(|helper| helper == address);
    }

    /// There is a connection to it.
    pub(super) fn connected(&mut self, address: &str) {
        self.monitors.entry(address.to_owned()).or_default().is_connected = true;
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, address: &str) {
        if let Some(monitor) = self.monitors.get_mut(address) {
            monitor.is_connected = false;
        }
    }

    /// A monitor says who leads in that term. Whether that is news.
    pub(super) fn told(&mut self, term: u64, address: &str) -> bool {
        let is_news = self.leader.as_ref().is_none_or(|(known, before)| {
            // The same leader may have moved, and those who say so know it one after another.
            *known < term || (*known == term && before != address)
        });
        if is_news
            && let Some((_, before)) = self.leader.replace((term, address.to_owned()))
            && before != address
        {
            // It was replaced for a reason: of those who could help it is the last to be asked.
            self.refused(&before);
        }
        is_news
    }

    /// A monitor has answered that it knows no leader. (If we think that it is the leader itself, we wait for
    /// news of another.)
    pub(super) fn refused(&mut self, address: &str) {
        self.refusals += 1;
        if let Some(monitor) = self.monitors.get_mut(address) {
            monitor.refused = self.refusals;
        }
        self.helper.take_if(|helper| helper == address);
    }

    /// Whom to talk to now; nobody when none is connected.
    pub(super) fn choose(&mut self) -> Option<Choice> {
        let term = self.leader.as_ref().map_or(0, |(term, _)| *term);
        let leader = self.leader.as_ref().map(|(_, address)| address);
        if let Some(leader) = leader.filter(|leader| self.is_connected(leader)) {
            return Some(Choice { address: leader.clone(), term });
        }
        let stays = self.helper.take().filter(|helper| self.is_connected(helper));
        self.helper = stays.or_else(|| self.least_refused());
        self.helper.clone().map(|address| Choice { address, term })
    }

    fn is_connected(&self, address: &str) -> bool {
        self.monitors.get(address).is_some_and(|monitor| monitor.is_connected)
    }

    fn least_refused(&self) -> Option<String> {
        let connected = self.monitors.iter().filter(|(_, monitor)| monitor.is_connected);
        connected.min_by_key(|(_, monitor)| monitor.refused).map(|(address, _)| address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(address: &str, term: u64) -> Option<Choice> {
        Some(Choice { address: address.to_owned(), term })
    }

    fn connected(addresses: &[&str]) -> Route {
        let mut route = Route::default();
        addresses.iter().for_each(|address| route.connected(address));
        route
    }

    #[test]
    fn one_that_is_gone_is_not_asked() {
        let mut route = Route::default();
        ["a", "b"].iter().for_each(|address| assert!(route.learn(address)));
        route.connected("a");
        assert_eq!(route.choose().map(|choice| choice.address), Some("a".to_owned()));
        route.forget("a");
        assert_eq!(route.choose(), None);
        assert!(route.learn("a"));
    }

    #[test]
    fn whoever_is_connected_will_do_until_the_leader_is_known_and_there() {
        let mut route = Route::default();
        assert!(route.learn("b"));
        assert_eq!(route.choose(), None);
        route.connected("b");
        assert_eq!(route.choose(), choice("b", 0));
        route.connected("a");
        assert_eq!(route.choose(), choice("b", 0), "no reason to change");
        assert!(route.told(3, "c"));
        assert_eq!(route.choose(), choice("b", 3), "it passes calls on");
        route.connected("c");
        assert_eq!(route.choose(), choice("c", 3));
        assert!(!route.learn("c"));
    }

    #[test]
    fn the_highest_term_is_right_whoever_speaks_last() {
        let mut route = connected(&["a", "b"]);
        assert!(route.told(4, "b"));
        assert!(!route.told(3, "a"), "one that lags behind");
        assert!(!route.told(4, "b"), "said by the second monitor");
        assert_eq!(route.choose(), choice("b", 4));
        assert!(route.told(4, "a"), "it was not there any more");
        assert_eq!(route.choose(), choice("a", 4));
        assert!(route.told(5, "b"));
        assert_eq!(route.choose(), choice("b", 5), "the same monitor, another reign");
    }

    #[test]
    fn without_the_leader_one_helps_until_it_is_lost_or_refuses() {
        let mut route = connected(&["a", "b", "c"]);
        route.told(1, "c");
        route.lost("c");
        assert_eq!(route.choose(), choice("a", 1));
        route.refused("a");
        assert_eq!(route.choose(), choice("b", 1));
        assert_eq!(route.choose(), choice("b", 1), "it did not refuse");
        route.refused("b");
        assert_eq!(route.choose(), choice("a", 1), "in turn");
        route.lost("a");
        assert_eq!(route.choose(), choice("b", 1));
        route.lost("b");
        assert_eq!(route.choose(), None);
        route.connected("c");
        assert_eq!(route.choose(), choice("c", 1));
    }

    #[test]
    fn a_leader_that_was_replaced_is_the_last_to_help() {
        let mut route = connected(&["a", "b"]);
        route.told(1, "a");
        route.told(2, "c");
        assert_eq!(route.choose(), choice("b", 2));
        route.lost("b");
        assert_eq!(route.choose(), choice("a", 2));
    }

    #[test]
    fn a_leader_that_refuses_is_kept_until_there_is_another() {
        let mut route = connected(&["a", "b"]);
        route.told(1, "a");
        route.refused("a");
        assert_eq!(route.choose(), choice("a", 1));
        route.told(2, "b");
        assert_eq!(route.choose(), choice("b", 2));
    }
}
