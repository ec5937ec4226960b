# Texts of the public page. Every key exists in nl, fr, de and en, with the same variables.
site-title = eHealth status
skip = Skip to the content
languages = Languages
state-up = Working
state-degraded = Disturbed
state-down = Not working
state-planned = Planned work
state-unknown = Unknown
head-all-up = { $total ->
    [one] The service works
   *[other] All { $total } services work
}
head-down = { $count ->
    [one] { $count } of { $total } services does not work
   *[other] { $count } of { $total } services do not work
}
head-degraded = { $count ->
    [one] Disturbance of { $count } of { $total } services
   *[other] Disturbance of { $count } of { $total } services
}
head-planned = Planned work on { $count } of { $total } services
head-unknown = The state of { $count } of { $total } services is unknown
head-none = No service is described yet
head-expired = State unknown since { $time }
expired-explain = This page could not be refreshed. That says nothing about the services themselves. The emergency procedures and telephone numbers below still hold.
expired-script = This copy of the page has expired. The state now is unknown. Load the page again.
since = since { $time }
services = Services
last-90-days = last 90 days
bar-label = Last 90 days: { $share } of the measured time working
bar-none = Last 90 days: not measured
days-not-up = { $count ->
    [one] { $count } day with a disturbance
   *[other] { $count } days with a disturbance
}
not-measured = not measured
effect = What this means for you
still-works = What still works
procedure = Emergency procedure
procedure-off = off
procedure-armed = stands ready
procedure-on = ON
procedure-standing-down = is being ended
procedure-do = What to do now
procedure-open = Read the procedure
procedure-not-now = The emergency procedure is off: work as usual. Below you can read what to do when it is on.
procedure-follow = The emergency procedure is on. Follow these steps until this page says that it is off.
procedure-unknown = It is not known at this moment whether the emergency procedure is on. Try as usual first; if that fails, follow these steps.
procedure-none = No emergency procedure has been described for this service.
procedure-of = Emergency procedure: { $service }
procedures = Emergency procedures
contact = Help by telephone
next-update = Next message before { $time }
started = Started { $time }
ended = Solved { $time }
incidents = Messages
incident-open = Now
incident-recent = Solved
incident-none = There are no messages about disturbances.
incident-title-down = { $service }: not working
incident-title-degraded = { $service }: disturbed
incident-title-unknown = { $service }: state unknown
incident-title-resolved = { $service }: working again
update-automatic = automatic message
incident-service-down = { $service }: not working. We are looking for the cause.
incident-service-degraded = { $service }: working with disturbances. We are looking for the cause.
incident-service-restored = { $service }: working again.
incident-resolved = { $service }: the disturbance has been solved.
phase-investigating = under investigation
phase-identified = cause known
phase-monitoring = being watched
phase-resolved = solved
timeline = Course of events, newest first
planned = Planned work
planned-none = No work is planned.
as-of = State at { $time }, valid until { $until }.
agreeing = { $count } of { $total } measuring sites had their say in this.
last-change = The last change was at { $time }.
times-zone = All times are local time in Brussels.
version = Version { $sequence }
fallback = in { $language }
in-nl = Dutch
in-fr = French
in-de = German
in-en = English
doctor = Doctors
pharmacist = Pharmacists
hospital = Hospitals
integrator = Software makers
nurse = Nurses
patient = Patients
everyone = Everyone
back = Overview
details = Details
history = History
history-days = The last 90 days, day by day
as-table = As a table
history-sum = Working { $share } of the measured time outside planned work.
col-day = Day (UTC)
col-state = State
col-up = Working
col-degraded = Disturbed
col-down = Not working
col-planned = Planned
col-unmeasured = Not measured
col-service = Service
days-unmeasured = Days before { $day } were not measured.
legend = What the bars mean
accessibility = Accessibility
accessibility-title = Accessibility statement
accessibility-goal = This site is made to meet the Web Content Accessibility Guidelines (WCAG) 2.1 level AA and the European standard EN 301 549.
accessibility-how = It works without scripts and without a mouse. No state is told by colour alone: there is always a word and a shape. The bars of the last 90 days are also there as a table. The page follows the text size, contrast and light or dark setting of your device.
accessibility-tested = It is tested with axe-core in four languages, light and dark, on narrow and wide screens, and with the keyboard, at every change of the software.
accessibility-limits = Known limits: messages that people write during an incident may appear in one language first. They are then labelled with that language.
accessibility-script = One small script marks the page as unknown when it has become too old. Everything else works without it.
accessibility-contact = Is something not accessible to you? Use the telephone numbers on the overview page; the same information can be given by telephone.
api = For software
api-title = Data for software makers
api-intro = The same state, in the same version, is available as files. They need no key and no registration.
api-shape = In the shape of the Statuspage interface, version 2:
api-bcp = Emergency procedures per service and profession, in four languages:
api-feed = Messages as a feed:
api-manifest = Signed list of all files:
api-valid = Each file says at which time it was made and until when it is valid. After that time, take the state as unknown. Any copy of these files can be checked with the signature in the list.
api-rate = Ask every 20 seconds at most. Answers carry an ETag: send it back and an unchanged file costs nothing.
feed-title = eHealth status: messages
not-found = This page does not exist
