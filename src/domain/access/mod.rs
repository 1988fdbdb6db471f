//! The types that prove a permission.

pub mod membership;
pub mod principal;
pub mod viewer;
