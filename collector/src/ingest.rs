//! MQTT in: removes duplicates, stores, and hands events to the judging core.
