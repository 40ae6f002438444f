//! The main job: a file of lines through the endpoints.

pub mod folder;
pub mod input;
pub mod merge;
pub mod segment;
pub mod storage_error;
