//! Running as an ordinary user.
