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
}

/// What a service is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub scale: u32,
    pub hash: String,
    pub image: String,
    pub recreate: Recreate,
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
    /// It runs, as it is wanted.
    Keep(Present),
}

/// Removals first: what is taken away may hold a port or an address that another one needs.
pub fn plan(wanted: &Wanted, mut present: Vec<Present>) -> Vec<Action> {
    let is_old = |present: &Present| match wanted.recreate {
        Recreate::Always => true,
        Recreate::Never => false,
        Recreate::Changed => present.hash != wanted.hash || present.image != wanted.image,
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
        }
    }

    fn planned(scale: u32, recreate: Recreate, there: &[Present]) -> Vec<String> {
        let wanted = Wanted { scale, hash: "h".into(), image: "i".into(), recreate };
        let shown = |action: Action| match action {
            Action::Remove(present) => format!("remove {}", present.number),
            Action::Recreate(present) => format!("recreate {}", present.number),
            Action::Create(number) => format!("create {number}"),
            Action::Start(present) => format!("start {}", present.number),
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
}
