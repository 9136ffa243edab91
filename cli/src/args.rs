//! Args.
