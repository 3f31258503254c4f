//! Files of the operating system, through rustix.
