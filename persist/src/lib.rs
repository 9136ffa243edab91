//! Durable, definite collections.
