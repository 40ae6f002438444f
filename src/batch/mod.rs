//! The main job: a file of lines through the endpoints.
