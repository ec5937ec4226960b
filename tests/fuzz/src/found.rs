//! What did harm once, by name. Each is tried in every test run, and is a seed of its target.

/// Bytes that made a target fail before it was mended.
#[derive(Debug)]
pub struct Found {
    pub name: &'static str,
    pub target: &'static str,
    pub bytes: &'static [u8],
}

pub const FOUND: &[Found] = &[
    Found {
        name: "a segment whose numbers fall, when its age drops it",
        target: "spool",
        bytes: b"\x01BCPSPL1\n\xB5\xC0\x0B\x0C/\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0=\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\x03\0\0\0ups-a1{\"v\":1}\
            \xB5\xC0\x0B\x0C/\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\x03\0\0\0ups-a1{\"v\":1}",
    },
    Found {
        name: "a damaged segment with the highest number there is: more payloads are missing than can be counted",
        target: "spool",
        bytes: b"\x01BCPSPL1\n\xB5\xC0\x0B\x0C/\0\0\0\x13-(\xE4\x01\0\0\0\0\0\0\0=\0\0\0\0\0\0\x003\xEA@\x0B\x0B\xC0\xB5\xC4\xA0\x01\0\0\0\x06\x01\0\0\0\0\0\0\x04a1{\"v\":0}\
            \xB5\xC0\x0B\x0C/\0\0\0\x13-(\xE4\x01\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFZm\x04\"\0lP\xC4\x8E\x01\0\0\0\x06\x03\0\0\0ups-a1{\"\xF6\":1}\xB5\xC0\x0B\x13-(\xE4\x01\0\0=\0\0\0\0}\x108k\0lP\xC4\xA0\x01}",
    },
    Found {
        name: "samples of a series whose number would need a table of 16 GiB",
        target: "journal",
        bytes: &[1, 3, 1, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    },
    Found { name: "a broken document over which toml_edit panics", target: "collector_config", bytes: b"\0==\n.=" },
    Found {
        name: "a time of the far future, and one of the far past",
        target: "api_request",
        bytes: b"/api/v1/history?device=ups-a1&point=battery.charge&from=-9000000000000000s&to=--9000000000000000s",
    },
    Found {
        name: "a number of the ledger that the database cannot hold",
        target: "api_request",
        bytes: b"/api/v1/ledger?after=9711162167159888992&limit=5",
    },
];
