//! `run`: starts the processes of a site and restarts what dies.
