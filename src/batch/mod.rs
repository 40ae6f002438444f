//! The main job: a file of lines through the endpoints.

pub mod line;
pub mod record;
