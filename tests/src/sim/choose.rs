//! Who decides what is left to chance: dice for a random history, an odometer for all of them.

use std::{cell::RefCell, rc::Rc};

/// Answers every question that a simulated thing leaves open.
pub trait Choose {
    /// A number below `n` (at least 2), for the question `what`.
    fn choose(&mut self, n: usize, what: &str) -> usize;

    /// Whether something happens that has this chance; one that counts histories takes both.
    fn chance(&mut self, per_million: u32, what: &str) -> bool {
        let _ = per_million;
        self.choose(2, what) == 1
    }
}

impl<C: Choose + ?Sized> Choose for Rc<RefCell<C>> {
    fn choose(&mut self, n: usize, what: &str) -> usize {
        self.borrow_mut().choose(n, what)
    }

    fn chance(&mut self, per_million: u32, what: &str) -> bool {
        self.borrow_mut().chance(per_million, what)
    }
}

/// Enumerates every history of a small world, depth first: run the world, [`Odometer::advance`],
/// run it again, until there is no next one. The world has to ask the same questions again as long
/// as it gets the same answers.
///
/// ```text
/// digits:  [1 of 3] [0 of 2] [1 of 2]      advance: the last digit that can turn does,
///                    ▲ turns to 1           what follows it is forgotten
/// ```
#[derive(Clone, Debug, Default)]
pub struct Odometer {
    digits: Vec<Digit>,
    asked: usize,
    /// So many answers may differ from the first history's.
    others_max: Option<usize>,
    /// The first answer to each question is the last one there is.
    from_last: bool,
}

#[derive(Clone, Copy, Debug)]
struct Digit {
    /// Turns so far.
    value: usize,
    end: usize,
    from_last: bool,
}

impl Digit {
    fn answer(self) -> usize {
        if self.from_last { self.end - 1 - self.value } else { self.value }
    }
}

impl Odometer {
    /// At the first history: every answer is 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Not all histories: the one in which every answer is 0, or every one the last there is, and
    /// those in which one of the answers is another.
    #[must_use]
    pub fn nearly(from_last: bool) -> Self {
        Self { others_max: Some(1), from_last, ..Self::default() }
    }

    /// Turns to the next history; false when there is none, and it stands at the first again.
    pub fn advance(&mut self) -> bool {
        self.digits.truncate(self.asked);
        self.asked = 0;
        while let Some(last) = self.digits.last_mut() {
            last.value += 1;
            if last.value < last.end && self.is_near() {
                return true;
            }
            self.digits.pop();
        }
        false
    }

    /// A number below `n`, of which 0 comes first also where others begin at the last.
    pub fn choose_from_none(&mut self, n: usize, what: &str) -> usize {
        let from_last = std::mem::replace(&mut self.from_last, false);
        let chosen = self.choose(n, what);
        self.from_last = from_last;
        chosen
    }

    fn is_near(&self) -> bool {
        let others = || self.digits.iter().filter(|digit| digit.value > 0).count();
        self.others_max.is_none_or(|most| others() <= most)
    }

    /// The answers of the present history so far: enough to replay it by [`Odometer::replay`].
    #[must_use]
    pub fn answers(&self) -> Vec<usize> {
        self.digits[..self.asked].iter().map(|digit| digit.answer()).collect()
    }

    /// Starts at the history with these first answers.
    #[must_use]
    pub fn replay(answers: &[usize]) -> Self {
        let digit = |&value| Digit { value, end: usize::MAX, from_last: false };
        Self { digits: answers.iter().map(digit).collect(), ..Self::default() }
    }
}

impl Choose for Odometer {
    fn choose(&mut self, n: usize, what: &str) -> usize {
        if self.asked == self.digits.len() {
            self.digits.push(Digit { value: 0, end: n, from_last: self.from_last });
        }
        let digit = &mut self.digits[self.asked];
        self.asked += 1;
        assert!(digit.end == n || digit.end == usize::MAX, "a world must repeat itself: {what}");
        assert!(digit.value < n, "an answer to another question: {what}");
        digit.end = n;
        digit.answer()
    }
}

/// Runs a world once for every history, and tells how many there were. The world gives clones of
/// its chooser to whatever leaves something open. When it panics, the answers so far are printed,
/// for [`Odometer::replay`].
pub fn every_history(mut world: impl FnMut(Rc<RefCell<Odometer>>)) -> u64 {
    let told = Told(Rc::default());
    let mut histories = 0;
    loop {
        world(told.0.clone());
        histories += 1;
        if !told.0.borrow_mut().advance() {
            return histories;
        }
    }
}

/// Prints the present history when it ends in a panic.
struct Told(Rc<RefCell<Odometer>>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(odometer) = self.0.try_borrow()
        {
            eprintln!("the answers of this history: {:?}", odometer.answers());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odometer_visits_every_history_once() {
        let mut histories = Vec::new();
        let count = every_history(|mut odometer| {
            let first = odometer.choose(2, "first");
            let second = if first == 1 { odometer.choose(3, "second") } else { 9 };
            assert_eq!(odometer.borrow().answers().len(), 1 + first);
            histories.push((first, second));
        });
        assert_eq!(count, 4);
        assert_eq!(histories, [(0, 9), (1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn near_histories_differ_in_one_answer() {
        let near = |from_last| {
            let (mut odometer, mut histories) = (Odometer::nearly(from_last), Vec::new());
            loop {
                let answers = [(); 3].map(|()| odometer.choose(3, "any"));
                assert_eq!(odometer.answers(), answers);
                histories.push(answers);
                if !odometer.advance() {
                    return histories;
                }
            }
        };
        let least = [[0; 3], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 2, 0], [1, 0, 0], [2, 0, 0]];
        assert_eq!(near(false), least);
        assert_eq!(near(true), least.map(|history| history.map(|answer| 2 - answer)));
    }

    #[test]
    fn a_replayed_history_is_the_same() {
        let mut odometer = Odometer::replay(&[1, 2]);
        assert_eq!([odometer.choose(2, "first"), odometer.choose(3, "second")], [1, 2]);
    }
}
