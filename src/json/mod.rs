//! Validating JSON scanner that hands back raw spans. Pure.
