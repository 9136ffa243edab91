//! What a schedule decides, drawn at random or searched exhaustively.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

use rand::Rng;
use rand::rngs::StdRng;

/// The decisions of a schedule.
pub trait Choices {
    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize;

    /// Yes or no.
    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of `0..n`, which makes a difference of degree and none of kind: an exhaustive search leaves it at 0.
    fn degree(&mut self, n: usize) -> usize;
}

impl Choices for StdRng {
    fn below(&mut self, n: usize) -> usize {
        self.random_range(0..n)
    }

    fn degree(&mut self, n: usize) -> usize {
        self.below(n)
    }
}

/// What is kept beside a state and is no part of it: two states that differ in it are the same.
#[derive(Clone, Debug, Default)]
pub struct Aside<T>(pub T);

impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Aside<T> {}

impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Aside<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
