# Teksten van de publieke pagina. Elke sleutel bestaat in nl, fr, de en en, met dezelfde variabelen.
site-title = eHealth-status
skip = Naar de inhoud
languages = Talen
state-up = Werkt
state-degraded = Verstoord
state-down = Werkt niet
state-planned = Gepland onderhoud
state-unknown = Onbekend
head-all-up = { $total ->
    [one] De dienst werkt
   *[other] Alle { $total } diensten werken
}
head-down = { $count ->
    [one] { $count } van { $total } diensten werkt niet
   *[other] { $count } van { $total } diensten werken niet
}
head-degraded = { $count ->
    [one] Storing bij { $count } van { $total } diensten
   *[other] Storing bij { $count } van { $total } diensten
}
head-planned = Gepland onderhoud bij { $count } van { $total } diensten
head-unknown = De toestand van { $count } van { $total } diensten is onbekend
head-none = Er is nog geen dienst beschreven
head-expired = Toestand onbekend sinds { $time }
expired-explain = Deze pagina kon niet worden vernieuwd. Dat zegt niets over de diensten zelf. De noodprocedures en telefoonnummers hieronder blijven gelden.
expired-script = Deze kopie van de pagina is verlopen. De toestand is nu onbekend. Laad de pagina opnieuw.
since = sinds { $time }
services = Diensten
last-90-days = laatste 90 dagen
bar-label = Laatste 90 dagen: { $share } van de gemeten tijd werkend
bar-none = Laatste 90 dagen: niet gemeten
days-not-up = { $count ->
    [one] { $count } dag met een storing
   *[other] { $count } dagen met een storing
}
not-measured = niet gemeten
effect = Wat dit voor u betekent
still-works = Wat nog werkt
procedure = Noodprocedure
procedure-off = uit
procedure-armed = staat klaar
procedure-on = AAN
procedure-standing-down = wordt beëindigd
procedure-do = Wat nu te doen
procedure-open = Lees de procedure
procedure-not-now = De noodprocedure is uit: werk zoals gewoonlijk. Hieronder leest u wat te doen als ze aan is.
procedure-follow = De noodprocedure is aan. Volg deze stappen tot deze pagina zegt dat ze uit is.
procedure-unknown = Op dit moment is niet bekend of de noodprocedure aan is. Probeer eerst zoals gewoonlijk; lukt dat niet, volg dan deze stappen.
procedure-none = Voor deze dienst is geen noodprocedure beschreven.
procedure-of = Noodprocedure: { $service }
procedures = Noodprocedures
contact = Hulp per telefoon
next-update = Volgend bericht vóór { $time }
started = Begonnen { $time }
ended = Opgelost { $time }
incidents = Berichten
incident-open = Nu
incident-recent = Opgelost
incident-none = Er zijn geen berichten over storingen.
incident-title-down = { $service }: werkt niet
incident-title-degraded = { $service }: verstoord
incident-title-unknown = { $service }: toestand onbekend
incident-title-resolved = { $service }: werkt weer
update-automatic = automatisch bericht
incident-service-down = { $service }: werkt niet. We zoeken de oorzaak.
incident-service-degraded = { $service }: werkt met storingen. We zoeken de oorzaak.
incident-service-restored = { $service }: werkt weer.
incident-resolved = { $service }: de storing is opgelost.
phase-investigating = in onderzoek
phase-identified = oorzaak bekend
phase-monitoring = wordt opgevolgd
phase-resolved = opgelost
timeline = Verloop, nieuwste eerst
planned = Gepland onderhoud
planned-none = Er is geen onderhoud gepland.
as-of = Toestand van { $time }, geldig tot { $until }.
agreeing = { $count } van { $total } meetplaatsen hadden hierin hun stem.
last-change = De laatste wijziging was om { $time }.
times-zone = Alle tijden zijn de plaatselijke tijd in Brussel.
version = Versie { $sequence }
fallback = in het { $language }
in-nl = Nederlands
in-fr = Frans
in-de = Duits
in-en = Engels
doctor = Artsen
pharmacist = Apothekers
hospital = Ziekenhuizen
integrator = Softwaremakers
nurse = Verpleegkundigen
patient = Patiënten
everyone = Iedereen
back = Overzicht
details = Details
history = Geschiedenis
history-days = De laatste 90 dagen, dag per dag
as-table = Als tabel
history-sum = Werkend { $share } van de gemeten tijd buiten gepland onderhoud.
col-day = Dag (UTC)
col-state = Toestand
col-up = Werkt
col-degraded = Verstoord
col-down = Werkt niet
col-planned = Gepland
col-unmeasured = Niet gemeten
col-service = Dienst
days-unmeasured = De dagen vóór { $day } zijn niet gemeten.
legend = Wat de balkjes betekenen
accessibility = Toegankelijkheid
accessibility-title = Toegankelijkheidsverklaring
accessibility-goal = Deze site is gemaakt volgens de Web Content Accessibility Guidelines (WCAG) 2.1, niveau AA, en de Europese norm EN 301 549.
accessibility-how = Ze werkt zonder scripts en zonder muis. Geen enkele toestand blijkt alleen uit kleur: er is altijd een woord en een vorm. De balkjes van de laatste 90 dagen staan er ook als tabel. De pagina volgt de tekstgrootte, het contrast en de lichte of donkere instelling van uw toestel.
accessibility-tested = Ze wordt bij elke wijziging van de software getest met axe-core, in vier talen, licht en donker, op smalle en brede schermen, en met het toetsenbord.
accessibility-limits = Bekende beperking: berichten die mensen tijdens een storing schrijven, kunnen eerst in één taal verschijnen. Die taal staat er dan bij.
accessibility-script = Eén klein script zet de pagina op onbekend als ze te oud is geworden. Al het andere werkt zonder.
accessibility-contact = Is iets voor u niet toegankelijk? Gebruik de telefoonnummers op de overzichtspagina; dezelfde informatie kan telefonisch worden gegeven.
api = Voor software
api-title = Gegevens voor softwaremakers
api-intro = Dezelfde toestand, in dezelfde versie, is er als bestanden. Er is geen sleutel en geen registratie nodig.
api-shape = In de vorm van de Statuspage-interface, versie 2:
api-bcp = Noodprocedures per dienst en beroep, in vier talen:
api-feed = Berichten als feed:
api-manifest = Ondertekende lijst van alle bestanden:
api-valid = Elk bestand zegt wanneer het gemaakt is en tot wanneer het geldt. Neem de toestand daarna als onbekend. Elke kopie van deze bestanden kan met de handtekening in de lijst worden nagekeken.
api-rate = Vraag hoogstens om de 20 seconden. Antwoorden dragen een ETag: stuur die terug en een ongewijzigd bestand kost niets.
feed-title = eHealth-status: berichten
not-found = Deze pagina bestaat niet
