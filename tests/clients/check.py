"""Reads the machine-readable side of a status page with other people's programs.

usage: check.py URL

feedparser (Atom), jsonfeed-util (JSON Feed 1.1), icalendar (RFC 5545) and statuspage-prometheus-exporter (the Statuspage
interface). Prints what each of them saw; any disagreement with the page is an error.
"""

import json
import os
import sys
import tempfile
import urllib.request

BASE = sys.argv[1].rstrip("/")
LANGS = ["nl", "fr", "de", "en"]


def get(path):
    with urllib.request.urlopen(BASE + path, timeout=20) as answer:
        return answer.read()


def check(holds, *what):
    if not holds:
        sys.exit("FAULT " + " ".join(str(word) for word in what))


def feeds(lang, messages):
    import feedparser
    import jsonfeed

    atom = feedparser.parse(f"{BASE}/{lang}/atom.xml")
    check(atom.version == "atom10" and not atom.bozo, lang, "Atom:", atom.get("bozo_exception"))
    check(atom.feed.language == lang and atom.feed.title, lang, "Atom has no title or another language")
    links = {entry.link for entry in atom.entries}
    check(len(links) == len(atom.entries) == messages, lang, "Atom has", len(atom.entries), "of", messages)
    for link in links:
        check(urllib.request.urlopen(link, timeout=20).status == 200, link, "is not there")
    feed = jsonfeed.Feed.parse(json.loads(get(f"/{lang}/feed.json")))
    check({item.id for item in feed.items} == {entry.id for entry in atom.entries}, lang, "the feeds differ")
    print(f"{lang}: Atom and JSON feed with {messages} messages")


def calendar(lang, works):
    import icalendar

    found = icalendar.Calendar.from_ical(get(f"/{lang}/planned.ics"))
    events = found.walk("VEVENT")
    check(not found.errors and not any(event.errors for event in events), lang, "iCal errors")
    check(len(events) == len(works), lang, "iCal has", len(events), "of", len(works))
    for event in events:
        work = next((work for work in works if str(event["UID"]).startswith(work["id"])), None)
        check(work is not None, event["UID"], "is no planned work")
        start = event.start.strftime("%Y-%m-%dT%H:%M:%S")
        check(work["scheduled_for"].startswith(start), event["UID"], "starts at", start)
        check(event.end > event.start, event["UID"], "ends before it starts")
    print(f"{lang}: iCal with {len(events)} events")


def statuspage(summary):
    service = {"name": "bcp", "url": f"{BASE}/api/v2/summary.json"}
    with tempfile.TemporaryDirectory() as scratch:
        # It reads its services from where it is started, and keeps a cache there.
        os.chdir(scratch)
        with open("services.json", "w") as file:
            json.dump({"bcp": service}, file)
        from statuspage_prometheus_exporter import service_checker as client

        seen = client.check_status_page_service("bcp", service)
        os.chdir("/")
    check(seen["success"], "Statuspage client:", seen)
    wanted = {part["name"]: part["status"] for part in summary["components"]}
    check({part["name"]: part["status"] for part in seen["component_metadata"]} == wanted, "components", seen)
    ids = lambda rows: sorted(row["id"] for row in rows)
    check(ids(seen["incident_metadata"]) == ids(summary["incidents"]), "incidents", seen)
    check(ids(seen["maintenance_metadata"]) == ids(summary["scheduled_maintenances"]), "maintenances", seen)
    print(
        f"Statuspage client: {len(wanted)} components, {len(summary['incidents'])} open incidents, "
        f"{len(summary['scheduled_maintenances'])} maintenances"
    )


summary = json.loads(get("/api/v2/summary.json"))
incidents = json.loads(get("/api/v2/incidents.json"))["incidents"]
works = json.loads(get("/api/v2/scheduled-maintenances.json"))["scheduled_maintenances"]
check(works, "no planned work to read")
for lang in LANGS:
    feeds(lang, len(incidents) + len(works))
    calendar(lang, works)
statuspage(summary)
