//! Record ↔ bytes with checksum; replay that tolerates a torn tail. Pure.
