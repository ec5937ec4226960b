# Texte der öffentlichen Seite. Jeder Schlüssel besteht in nl, fr, de und en, mit denselben Variablen.
site-title = eHealth-Status
skip = Zum Inhalt
languages = Sprachen
state-up = Funktioniert
state-degraded = Gestört
state-down = Ausgefallen
state-planned = Geplante Wartung
state-unknown = Unbekannt
head-all-up = { $total ->
    [one] Der Dienst funktioniert
   *[other] Alle { $total } Dienste funktionieren
}
head-down = { $count ->
    [one] { $count } von { $total } Diensten ist ausgefallen
   *[other] { $count } von { $total } Diensten sind ausgefallen
}
head-degraded = { $count ->
    [one] Störung bei { $count } von { $total } Diensten
   *[other] Störung bei { $count } von { $total } Diensten
}
head-planned = Geplante Wartung bei { $count } von { $total } Diensten
head-unknown = Der Zustand von { $count } von { $total } Diensten ist unbekannt
head-none = Es ist noch kein Dienst beschrieben
head-expired = Zustand unbekannt seit { $time }
expired-explain = Diese Seite konnte nicht erneuert werden. Das sagt nichts über die Dienste selbst. Die Notverfahren und Telefonnummern unten gelten weiter.
expired-script = Diese Kopie der Seite ist abgelaufen. Der Zustand ist jetzt unbekannt. Laden Sie die Seite neu.
since = seit { $time }
services = Dienste
last-90-days = letzte 90 Tage
bar-label = Letzte 90 Tage: { $share } der gemessenen Zeit in Betrieb
bar-none = Letzte 90 Tage: nicht gemessen
days-not-up = { $count ->
    [one] { $count } Tag mit einer Störung
   *[other] { $count } Tage mit einer Störung
}
not-measured = nicht gemessen
effect = Was das für Sie bedeutet
still-works = Was noch funktioniert
procedure = Notverfahren
procedure-off = aus
procedure-armed = steht bereit
procedure-on = EIN
procedure-standing-down = wird beendet
procedure-do = Was jetzt zu tun ist
procedure-open = Verfahren lesen
procedure-not-now = Das Notverfahren ist aus: Arbeiten Sie wie gewohnt. Unten lesen Sie, was zu tun ist, wenn es eingeschaltet ist.
procedure-follow = Das Notverfahren ist eingeschaltet. Folgen Sie diesen Schritten, bis diese Seite sagt, dass es aus ist.
procedure-unknown = Es ist im Moment nicht bekannt, ob das Notverfahren eingeschaltet ist. Versuchen Sie es erst wie gewohnt; gelingt das nicht, folgen Sie diesen Schritten.
procedure-none = Für diesen Dienst ist kein Notverfahren beschrieben.
procedure-of = Notverfahren: { $service }
procedures = Notverfahren
contact = Hilfe per Telefon
next-update = Nächste Meldung vor { $time }
started = Begonnen { $time }
ended = Behoben { $time }
incidents = Meldungen
incident-open = Jetzt
incident-recent = Behoben
incident-none = Es gibt keine Meldungen über Störungen.
incident-title-down = { $service }: ausgefallen
incident-title-degraded = { $service }: gestört
incident-title-unknown = { $service }: Zustand unbekannt
incident-title-resolved = { $service }: funktioniert wieder
update-automatic = automatische Meldung
incident-service-down = { $service }: ausgefallen. Wir suchen die Ursache.
incident-service-degraded = { $service }: funktioniert mit Störungen. Wir suchen die Ursache.
incident-service-restored = { $service }: funktioniert wieder.
incident-resolved = { $service }: Die Störung ist behoben.
phase-investigating = in Untersuchung
phase-identified = Ursache bekannt
phase-monitoring = wird beobachtet
phase-resolved = behoben
timeline = Verlauf, Neuestes zuerst
planned = Geplante Wartung
planned-none = Es ist keine Wartung geplant.
as-of = Zustand von { $time }, gültig bis { $until }.
agreeing = { $count } von { $total } Messstellen haben daran mitgewirkt.
last-change = Die letzte Änderung war um { $time }.
times-zone = Alle Zeiten sind Ortszeit in Brüssel.
version = Version { $sequence }
fallback = auf { $language }
in-nl = Niederländisch
in-fr = Französisch
in-de = Deutsch
in-en = Englisch
doctor = Ärzte
pharmacist = Apotheker
hospital = Krankenhäuser
integrator = Softwarehersteller
nurse = Pflegekräfte
patient = Patienten
everyone = Alle
back = Übersicht
details = Einzelheiten
history = Verlauf
history-days = Die letzten 90 Tage, Tag für Tag
as-table = Als Tabelle
history-sum = In Betrieb { $share } der gemessenen Zeit außerhalb geplanter Wartung.
col-day = Tag (UTC)
col-state = Zustand
col-up = Funktioniert
col-degraded = Gestört
col-down = Ausgefallen
col-planned = Geplant
col-unmeasured = Nicht gemessen
col-service = Dienst
days-unmeasured = Die Tage vor dem { $day } wurden nicht gemessen.
legend = Was die Balken bedeuten
accessibility = Barrierefreiheit
accessibility-title = Erklärung zur Barrierefreiheit
accessibility-goal = Diese Website ist nach den Web Content Accessibility Guidelines (WCAG) 2.1, Stufe AA, und der europäischen Norm EN 301 549 gemacht.
accessibility-how = Sie funktioniert ohne Skripte und ohne Maus. Kein Zustand wird nur durch Farbe gezeigt: Es gibt immer ein Wort und eine Form. Die Balken der letzten 90 Tage gibt es auch als Tabelle. Die Seite folgt der Textgröße, dem Kontrast und der hellen oder dunklen Einstellung Ihres Geräts.
accessibility-tested = Sie wird bei jeder Änderung der Software mit axe-core geprüft, in vier Sprachen, hell und dunkel, auf schmalen und breiten Bildschirmen, und mit der Tastatur.
accessibility-limits = Bekannte Grenze: Meldungen, die Menschen während einer Störung schreiben, können zuerst in einer Sprache erscheinen. Diese Sprache ist dann angegeben.
accessibility-script = Ein einziges kleines Skript setzt die Seite auf unbekannt, wenn sie zu alt geworden ist. Alles andere funktioniert ohne es.
accessibility-contact = Ist etwas für Sie nicht zugänglich? Nutzen Sie die Telefonnummern auf der Übersichtsseite; dieselben Angaben erhalten Sie auch telefonisch.
api = Für Software
api-title = Daten für Softwarehersteller
api-intro = Derselbe Zustand, in derselben Version, ist als Dateien verfügbar. Es braucht keinen Schlüssel und keine Anmeldung.
api-shape = In der Form der Statuspage-Schnittstelle, Version 2:
api-bcp = Notverfahren je Dienst und Beruf, in vier Sprachen:
api-feed = Meldungen als Feed:
api-manifest = Signierte Liste aller Dateien:
api-valid = Jede Datei sagt, wann sie gemacht wurde und bis wann sie gilt. Danach gilt der Zustand als unbekannt. Jede Kopie dieser Dateien lässt sich mit der Signatur in der Liste prüfen.
api-rate = Fragen Sie höchstens alle 20 Sekunden. Antworten tragen ein ETag: Schicken Sie es zurück, und eine unveränderte Datei kostet nichts.
feed-title = eHealth-Status: Meldungen
not-found = Diese Seite besteht nicht
