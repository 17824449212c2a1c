//! What the plan does, and that it never does it twice.
