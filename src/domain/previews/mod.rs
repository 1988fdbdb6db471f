//! Previews of links: the title, the description and an image of the page that a message links to.

pub mod fetching;
pub mod link_previews;
pub mod page;
pub mod queue;
