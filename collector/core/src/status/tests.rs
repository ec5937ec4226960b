//! Agreement, incidents, procedures, days.
