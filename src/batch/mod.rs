//! The main job: a file of lines through the endpoints.

pub mod admission;
pub mod advice;
pub mod content;
pub mod coordinator;
pub mod delivery;
pub mod encode;
pub mod finished;
pub mod folder;
mod gates;
pub mod input;
pub mod judgement;
mod last_lines;
pub mod line;
pub mod merge;
pub mod message;
pub mod open_files;
pub mod plan;
pub mod progress;
pub mod quotas;
pub mod record;
pub mod segment;
mod settle;
pub mod shard;
pub mod slices;
pub mod spend;
pub mod storage_error;
pub mod stream;
