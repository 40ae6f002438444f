//! Who may send what, where and when: pure machines, `now` is an argument.
