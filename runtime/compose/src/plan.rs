//! What is to be done so that a service's containers are what the file says.
//!
//! Pure: what is there is told by the caller, and the caller does what comes of it.

/// A container of the service that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub id: String,
    pub name: String,
    pub number: u32,
    /// Of what the file said when it was made.
    pub hash: String,
    /// The image's id, as it was then.
    pub image: String,
    pub running: bool,
    /// It has namespaces of a container that is no longer the one that lends them.
    pub cut_off: bool,
}

/// What a service is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub scale: u32,
    pub hash: String,
    pub image: String,
    pub recreate: Recreate,
    /// What runs already is to begin again: something that it depends on has changed.
    pub restart: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreate {
    /// What is no longer what the file says.
    #[default]
    Changed,
    Always,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Remove(Present),
    /// A new one in its place, with its number and its anonymous volumes.
    Recreate(Present),
    Create(u32),
    Start(Present),
    Restart(Present),
    /// It runs, as it is wanted.
    Keep(Present),
}

/// What became of a service, for those that depend on it; each is more than those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Its containers ran already.
    Nothing,
    /// The same containers began again, with new namespaces.
    Started,
    /// A container is new.
    Made,
}

impl Change {
    pub fn of(actions: &[Action]) -> Change {
        let one = |action: &Action| match action {
            Action::Remove(_) | Action::Keep(_) => Change::Nothing,
            Action::Start(_) | Action::Restart(_) => Change::Started,
            Action::Create(_) | Action::Recreate(_) => Change::Made,
        };
        actions.iter().map(one).max().unwrap_or(Change::Nothing)
    }
}

/// Removals first: what is taken away may hold a port or an address that another one needs.
pub fn plan(wanted: &Wanted, mut present: Vec<Present>) -> Vec<Action> {
    let is_old = |present: &Present| match wanted.recreate {
        Recreate::Always => true,
        Recreate::Never => false,
        Recreate::Changed => {
            present.hash != wanted.hash || present.image != wanted.image || present.cut_off
        }
    };
    // Whoever is as wanted stays before whoever would have to be made anew.
    present.sort_by_key(|present| (is_old(present), present.number));
    let surplus = present.split_off(present.len().min(wanted.scale as usize));
    let mut actions: Vec<Action> = surplus.into_iter().rev().map(Action::Remove).collect();
    let taken: Vec<u32> = present.iter().map(|present| present.number).collect();
    let free = (1..).filter(|number| !taken.contains(number));
    let missing = wanted.scale as usize - taken.len();
    present.sort_by_key(|present| present.number);
    actions.extend(present.into_iter().map(|present| match (is_old(&present), present.running) {
        (true, _) => Action::Recreate(present),
        (false, false) => Action::Start(present),
        (false, true) if wanted.restart => Action::Restart(present),
        (false, true) => Action::Keep(present),
    }));
    actions.extend(free.take(missing).map(Action::Create));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(number: u32, hash: &str, running: bool) -> Present {
        Present {
            id: format!("id{number}"),
            name: format!("p-s-{number}"),
            number,
            hash: hash.into(),
            image: "i".into(),
            running,
            cut_off: false,
        }
    }

    fn planned(scale: u32, recreate: Recreate, there: &[Present]) -> Vec<String> {
        shown(wanted(scale, recreate), there)
    }

    fn wanted(scale: u32, recreate: Recreate) -> Wanted {
        Wanted { scale, hash: "h".into(), image: "i".into(), recreate, restart: false }
    }

    fn shown(wanted: Wanted, there: &[Present]) -> Vec<String> {
        let shown = |action: Action| match action {
            Action::Remove(present) => format!("remove {}", present.number),
            Action::Recreate(present) => format!("recreate {}", present.number),
            Action::Create(number) => format!("create {number}"),
            Action::Start(present) => format!("start {}", present.number),
            Action::Restart(present) => format!("restart {}", present.number),
            Action::Keep(present) => format!("keep {}", present.number),
        };
        plan(&wanted, there.to_vec()).into_iter().map(shown).collect()
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_too_much_is_removed() {
        let check = |scale, there: &[Present], expected: &[&str]| {
            assert_eq!(planned(scale, Recreate::Changed, there), expected);
        };
        let [one, two, three] = [1, 2, 3].map(|number| present(number, "h", true));
        check(2, &[], &["create 1", "create 2"]);
        check(3, &[one.clone(), three.clone()], &["keep 1", "keep 3", "create 2"]);
        check(1, &[one.clone(), two.clone(), three], &["remove 3", "remove 2", "keep 1"]);
        check(0, std::slice::from_ref(&one), &["remove 1"]);
        check(1, &[present(1, "h", false)], &["start 1"]);
        check(2, &[present(1, "old", true), two.clone()], &["recreate 1", "keep 2"]);
        check(1, &[present(1, "old", true), two], &["remove 1", "keep 2"]);
    }

    #[test]
    fn what_changed_is_made_anew_unless_told_otherwise() {
        let there = [present(1, "old", true), present(2, "h", true)];
        assert_eq!(planned(2, Recreate::Changed, &there), ["recreate 1", "keep 2"]);
        assert_eq!(planned(2, Recreate::Never, &there), ["keep 1", "keep 2"]);
        assert_eq!(planned(2, Recreate::Always, &there), ["recreate 1", "recreate 2"]);
        let mut other_image = present(1, "h", true);
        other_image.image = "j".into();
        assert_eq!(planned(1, Recreate::Changed, &[other_image]), ["recreate 1"]);
    }

    #[test]
    fn who_shares_namespaces_with_a_container_that_is_gone_is_made_anew() {
        let there = [Present { cut_off: true, ..present(1, "h", true) }, present(2, "h", true)];
        assert_eq!(planned(2, Recreate::Changed, &there), ["recreate 1", "keep 2"]);
        assert_eq!(planned(2, Recreate::Never, &there), ["keep 1", "keep 2"]);
    }

    #[test]
    fn who_is_to_begin_again_keeps_its_container() {
        let there = [present(1, "h", true), present(2, "h", false), present(3, "old", true)];
        let wanted = |recreate| Wanted { restart: true, ..wanted(3, recreate) };
        assert_eq!(
            shown(wanted(Recreate::Changed), &there),
            ["restart 1", "start 2", "recreate 3"]
        );
        assert_eq!(shown(wanted(Recreate::Never), &there), ["restart 1", "start 2", "restart 3"]);
    }

    #[test]
    fn a_service_has_changed_as_much_as_its_most_changed_container() {
        let one = || present(1, "h", true);
        let check = |actions: &[Action], expected| assert_eq!(Change::of(actions), expected);
        check(&[], Change::Nothing);
        check(&[Action::Remove(one()), Action::Keep(one())], Change::Nothing);
        check(&[Action::Start(one()), Action::Keep(one())], Change::Started);
        check(&[Action::Restart(one())], Change::Started);
        check(&[Action::Create(2), Action::Start(one())], Change::Made);
        check(&[Action::Recreate(one())], Change::Made);
    }
}
