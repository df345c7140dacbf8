"""English words that the persona shift goes by, all in lower case."""

# "We" has the user in it, and whom else nobody knows.
SUBJECTS = ("i", "we")
PRONOUNS = {
  **dict.fromkeys((*SUBJECTS, "me", "us"), "the user"),
  **dict.fromkeys(("my", "mine", "our", "ours"), "the user's"),
  **dict.fromkeys(("myself", "ourselves"), "themselves"),
}
CONTRACTIONS = {
  **dict.fromkeys(("i'm", "im", "we're"), "is"),
  **dict.fromkeys(("i've", "ive", "we've"), "has"),
  **dict.fromkeys(("i'll", "we'll"), "will"),
  **dict.fromkeys(("i'd", "we'd"), "would"),
}
IRREGULAR = {
  "am": "is",
  "are": "is",
  "have": "has",
  "do": "does",
  "were": "was",
  "don't": "doesn't",
  "dont": "doesn't",
  "haven't": "hasn't",
  "aren't": "isn't",
  "ain't": "isn't",
  "weren't": "wasn't",
}
MODALS = frozenset(
  "can could will would shall should may might must cannot can't couldn't "
  "won't wouldn't shouldn't mustn't".split()
)
PAST = frozenset(
  "was wasn't had hadn't did didn't been became began bought broke brought "
  "built came chose drank drew drove ate fell felt found gave got gotten grew "
  "heard held kept knew led left lost made met outgrew ran sang saw seen known "
  "sold spent stood taught thought told took understood went woke won wore "
  "wrote said".split()
)
PRESENT_ED = frozenset(
  "need feed exceed proceed succeed speed bleed breed heed seed weed".split()
)
ADVERBS = frozenset(
  "always often never also still just even sometimes only ever already now "
  "then both rather quite seldom not kinda most much".split()
)
VERBS_IN_LY = frozenset("rely apply reply fly supply comply imply".split())
# Verbs in any place where a verb can stand; the second only before a word of
# the third, since "love stories" are no verb with an object.
PLAIN_VERBS = frozenset(
  "enjoy prefer hate dislike avoid adore collect listen own tend spend "
  "appreciate detest choose".split()
) | set(IRREGULAR)
VERBS_OR_NOUNS = frozenset(
  "love like play read watch use buy need want wear drink eat drive cook"
  "".split()
)
AFTER_VERBS = frozenset(
  "it them to the a an my our with on at in all most many some any every both "
  "only for more him her this these things".split()
)
COORDINATORS = frozenset(("and", "but", "or"))
# With these a clause of somebody else's begins, or an infinitive.
ENDS_CLAUSE = frozenset(
  "that which who whom whose what where when while because if since as so he "
  "she they you it to".split()
)
NUMBERED = frozenset("part volume vol chapter episode type class war".split())
BEFORE_NOUNS = frozenset(
  "a an the this that these each every my our gold coal salt land user's"
  "".split()
)
NO_VERBS = (
  AFTER_VERBS | COORDINATORS | ENDS_CLAUSE | BEFORE_NOUNS | set(PRONOUNS)
)
