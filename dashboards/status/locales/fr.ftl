# Textes de la page publique. Chaque clé existe en nl, fr, de et en, avec les mêmes variables.
site-title = État eHealth
skip = Aller au contenu
languages = Langues
state-up = Fonctionne
state-degraded = Perturbé
state-down = Ne fonctionne pas
state-planned = Entretien prévu
state-unknown = Inconnu
head-all-up = { $total ->
    [one] Le service fonctionne
   *[other] Les { $total } services fonctionnent
}
head-down = { $count ->
    [one] { $count } service sur { $total } ne fonctionne pas
   *[other] { $count } services sur { $total } ne fonctionnent pas
}
head-degraded = { $count ->
    [one] Perturbation de { $count } service sur { $total }
   *[other] Perturbation de { $count } services sur { $total }
}
head-planned = { $count ->
    [one] Entretien prévu de { $count } service sur { $total }
   *[other] Entretien prévu de { $count } services sur { $total }
}
head-unknown = { $count ->
    [one] L’état de { $count } service sur { $total } est inconnu
   *[other] L’état de { $count } services sur { $total } est inconnu
}
head-none = Aucun service n’est encore décrit
head-expired = État inconnu depuis { $time }
expired-explain = Cette page n’a pas pu être actualisée. Cela ne dit rien des services eux-mêmes. Les procédures d’urgence et les numéros de téléphone ci-dessous restent valables.
expired-script = Cette copie de la page a expiré. L’état actuel est inconnu. Rechargez la page.
since = depuis { $time }
services = Services
last-90-days = 90 derniers jours
bar-label = 90 derniers jours : fonctionnement pendant { $share } du temps mesuré
bar-none = 90 derniers jours : pas de mesure
days-not-up = { $count ->
    [one] { $count } jour avec une perturbation
   *[other] { $count } jours avec une perturbation
}
not-measured = pas mesuré
effect = Ce que cela change pour vous
still-works = Ce qui fonctionne encore
procedure = Procédure d’urgence
procedure-off = désactivée
procedure-armed = prête
procedure-on = ACTIVE
procedure-standing-down = en cours de levée
procedure-do = Que faire maintenant
procedure-open = Lire la procédure
procedure-not-now = La procédure d’urgence est désactivée : travaillez comme d’habitude. Vous pouvez lire ci-dessous ce qu’il faut faire quand elle est active.
procedure-follow = La procédure d’urgence est active. Suivez ces étapes jusqu’à ce que cette page indique qu’elle est désactivée.
procedure-unknown = On ne sait pas en ce moment si la procédure d’urgence est active. Essayez d’abord comme d’habitude ; en cas d’échec, suivez ces étapes.
procedure-none = Aucune procédure d’urgence n’est décrite pour ce service.
procedure-of = Procédure d’urgence : { $service }
procedures = Procédures d’urgence
contact = Aide par téléphone
next-update = Prochain message avant { $time }
started = Début { $time }
ended = Résolu { $time }
incidents = Messages
incident-open = En ce moment
incident-recent = Résolus
incident-none = Il n’y a pas de message de perturbation.
incident-title-down = { $service } : ne fonctionne pas
incident-title-degraded = { $service } : perturbé
incident-title-unknown = { $service } : état inconnu
incident-title-resolved = { $service } : fonctionne à nouveau
update-automatic = message automatique
incident-service-down = { $service } : ne fonctionne pas. Nous cherchons la cause.
incident-service-degraded = { $service } : fonctionne avec des perturbations. Nous cherchons la cause.
incident-service-restored = { $service } : fonctionne à nouveau.
incident-resolved = { $service } : la perturbation est résolue.
phase-investigating = en cours d’examen
phase-identified = cause connue
phase-monitoring = sous surveillance
phase-resolved = résolu
timeline = Déroulement, le plus récent d’abord
planned = Entretien prévu
planned-none = Aucun entretien n’est prévu.
as-of = État à { $time }, valable jusqu’à { $until }.
agreeing = { $count } sites de mesure sur { $total } ont pris part à ce constat.
last-change = Le dernier changement date de { $time }.
times-zone = Toutes les heures sont celles de Bruxelles.
version = Version { $sequence }
fallback = en { $language }
in-nl = néerlandais
in-fr = français
in-de = allemand
in-en = anglais
doctor = Médecins
pharmacist = Pharmaciens
hospital = Hôpitaux
integrator = Éditeurs de logiciels
nurse = Personnel infirmier
patient = Patients
everyone = Tout le monde
back = Aperçu
details = Détails
history = Historique
history-days = Les 90 derniers jours, jour par jour
as-table = Sous forme de tableau
history-sum = Fonctionnement pendant { $share } du temps mesuré hors entretien prévu.
col-day = Jour (UTC)
col-state = État
col-up = Fonctionne
col-degraded = Perturbé
col-down = Ne fonctionne pas
col-planned = Prévu
col-unmeasured = Pas mesuré
col-service = Service
days-unmeasured = Les jours avant le { $day } n’ont pas été mesurés.
legend = Signification des barres
accessibility = Accessibilité
accessibility-title = Déclaration d’accessibilité
accessibility-goal = Ce site est conçu pour respecter les règles pour l’accessibilité des contenus Web (WCAG) 2.1, niveau AA, et la norme européenne EN 301 549.
accessibility-how = Il fonctionne sans script et sans souris. Aucun état n’est indiqué par la seule couleur : il y a toujours un mot et une forme. Les barres des 90 derniers jours existent aussi sous forme de tableau. La page suit la taille du texte, le contraste et le réglage clair ou sombre de votre appareil.
accessibility-tested = Il est testé avec axe-core dans quatre langues, en clair et en sombre, sur écrans étroits et larges, et au clavier, à chaque modification du logiciel.
accessibility-limits = Limite connue : les messages rédigés par des personnes pendant un incident peuvent paraître d’abord dans une seule langue. Cette langue est alors indiquée.
accessibility-script = Un seul petit script marque la page comme inconnue lorsqu’elle est devenue trop ancienne. Tout le reste fonctionne sans lui.
accessibility-contact = Quelque chose ne vous est pas accessible ? Utilisez les numéros de téléphone de la page d’aperçu ; la même information peut être donnée par téléphone.
api = Pour les logiciels
api-title = Données pour les éditeurs de logiciels
api-intro = Le même état, dans la même version, est disponible sous forme de fichiers. Ni clé ni inscription ne sont nécessaires.
api-shape = Dans la forme de l’interface Statuspage, version 2 :
api-bcp = Procédures d’urgence par service et profession, en quatre langues :
api-feed = Messages sous forme de flux (Atom et JSON Feed) :
api-manifest = Liste signée de tous les fichiers :
api-valid = Chaque fichier indique quand il a été créé et jusqu’à quand il est valable. Après cette heure, considérez l’état comme inconnu. Toute copie de ces fichiers peut être vérifiée avec la signature de la liste.
api-rate = Interrogez au plus toutes les 20 secondes. Les réponses portent un ETag : renvoyez-le et un fichier inchangé ne coûte rien.
feed-title = État eHealth : messages
not-found = Cette page n’existe pas
planned-all = Tous les entretiens prévus
work-announced = annoncé
work-in-progress = en cours
work-completed = terminé
work-cancelled = annulé
work-times = Du { $from } au { $to }
work-over = Terminé { $time }
work-started = L’entretien prévu a commencé.
work-ended = L’entretien prévu est terminé.
work-past = Passé
calendar = Calendrier
calendar-file = Fichier d’agenda (iCal)
calendar-today = aujourd’hui
update-changed = modifié { $time }
api-calendar = Entretiens prévus pour agendas (iCal) :
history-intro = Les 90 derniers jours de chaque service. Ce qui n’a pas été mesuré ne compte nulle part.
history-sums = Total de ces jours
history-events = Jours avec une perturbation ou un entretien prévu
history-events-none = Pendant ces jours, il n’y a eu ni perturbation ni entretien prévu.
col-share = Part en fonctionnement
procedures-intro = Que faire quand un service ne fonctionne pas. Imprimez cette page et gardez-la : elle doit être là quand le réseau ne l’est pas.
