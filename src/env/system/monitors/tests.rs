//! Small monitors over loopback that say who leads, refuse, or are silent.
