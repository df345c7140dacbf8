// The page's only script. Texts of users and catalogues are set as text alone.

const of = (id) => document.getElementById(id);
const LISTED = 10;
// What the server takes.
const MOST_LISTED = 100;
const MOST_EXPLAINED = 100;
const PAGE = 30;
const KEY = "instructrec-key";

let history = [];
// What was said or pressed since the wish, which is the first: {say} or {not}.
let turns = [{ say: "" }];
// The turns that were answered, each with the titles that were shown.
let answered = [];
let unknown = new Set();
// Places of the ranking before, to tell what has moved.
let before = new Map();
let catalogue = 0;
// What "Why?" asks about: the last question and its best answer.
let asked = null;

class NoKey extends Error {}

async function fetched(path, body) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { headers };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Try again in a moment.");
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    of("key-field").hidden = false;
    throw new NoKey(key ? "This key is not one of the server's." : "");
  }
  if (!answer.ok) throw new Error(sentence(found.message) || `Status ${answer.status}.`);
  of("key-field").hidden = true;
  return found;
}

const sentence = (text = "") => text.charAt(0).toUpperCase() + text.slice(1);

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, label, action, id) {
  const made = element("button", text, "small-button");
  made.type = "button";
  if (id) made.id = id;
  if (label !== text) made.setAttribute("aria-label", label);
  made.addEventListener("click", () => action(made));
  return made;
}

const lines = (text) => [
  ...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean)),
];

const quoted = (text) => `“${text}”`;

function wholeCatalogue() {
  return document.querySelector("[name=source]:checked").value === "catalogue";
}

// With a catalogue one can go on; reasoning is for a history alone.
const converses = () => wholeCatalogue() && !of("reason").checked;

const rejected = () => turns.map((turn) => turn.not).filter(Boolean);

function said(query = of("query").value.trim()) {
  const body = { query, kind: of("kind").value };
  if (history.length) body.history = history;
  for (const name of ["preference", "context"]) {
    const text = of(name).value.trim();
    if (text) body[name] = text;
  }
  return body;
}

// --- The address has all that was said, after the #: it goes to no server.

function toAddress() {
  const state = new URLSearchParams();
  const { query, kind, preference, context } = said(turns[0].say);
  if (query) state.set("wish", query);
  for (const title of history) state.append("has", title);
  for (const turn of turns.slice(1)) {
    if (turn.not) state.append("not", turn.not);
    else state.append("then", turn.say);
  }
  if (kind !== "auto") state.set("kind", kind);
  if (preference) state.set("taste", preference);
  if (context) state.set("for", context);
  if (of("reason").checked) state.set("reason", "yes");
  if (!wholeCatalogue()) {
    for (const title of lines(of("candidates").value)) state.append("of", title);
  }
  return state.size ? `#${state}` : location.pathname;
}

function fromAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  of("query").value = state.get("wish") ?? "";
  history = state.getAll("has");
  turns = [{ say: of("query").value }];
  for (const [name, text] of state) {
    if (name === "then") turns.push({ say: text });
    if (name === "not") turns.push({ not: text });
  }
  of("preference").value = state.get("taste") ?? "";
  of("context").value = state.get("for") ?? "";
  of("reason").checked = state.get("reason") === "yes";
  const kinds = [...of("kind").options].map((option) => option.value);
  const kind = state.get("kind");
  of("kind").value = kinds.includes(kind) ? kind : "auto";
  const titles = state.getAll("of");
  of("candidates").value = titles.join("\n");
  chooseSource(catalogue && !titles.length ? "catalogue" : "titles");
  unknown = new Set();
  showHistory();
  return Boolean(of("query").value || history.length || state.get("taste"));
}

function chooseSource(name) {
  document.querySelector(`[name=source][value=${name}]`).checked = true;
  of("titles").hidden = name === "catalogue";
}

// --- What you have.

function chip(title, remove, label) {
  const item = element("li", title);
  item.append(button("×", label, remove));
  return item;
}

function showHistory() {
  of("history").replaceChildren(
    ...history.map((title, place) => {
      const item = chip(title, () => {
        history.splice(place, 1);
        showHistory();
        of("title").focus();
        composeSoon();
      }, `Remove ${title}`);
      if (unknown.has(title)) item.classList.add("unknown");
      return item;
    }),
  );
  const strange = history.filter((title) => unknown.has(title));
  of("unknown").textContent = strange.length
    ? `Not in the catalogue: ${strange.join("; ")}. The model reads the title ` +
      "as you wrote it."
    : "";
}

function flagUnknown(answer) {
  unknown = new Set(answer.unknown_history);
  showHistory();
}

function has(title) {
  if (!title || history.includes(title)) return;
  history.push(title);
  showHistory();
  composeSoon();
}

function addTitle() {
  has(of("title").value.trim());
  of("title").value = "";
  of("found").replaceChildren();
  of("title").focus();
}

async function suggest() {
  const text = of("title").value.trim();
  if (!catalogue || text.length < 2) return;
  const path = `v1/items?limit=12&search=${encodeURIComponent(text)}`;
  const { items } = await fetched(path).catch(() => ({ items: [] }));
  if (text !== of("title").value.trim()) return;
  of("found").replaceChildren(
    ...items.map((title) => {
      const option = document.createElement("option");
      option.value = title;
      return option;
    }),
  );
}

// --- What was said, turn by turn.

const titlesOf = (place) => answered[place]?.titles ?? [];

function labelOf(turn, place) {
  if (turn.not) return `not ${turn.not}`;
  // Of a button, which knows a title by its place.
  const [, number] = turn.say.match(/^more like the (\d+)(?:st|nd|rd|th)$/) ?? [];
  const title = number && titlesOf(place - 1)[number - 1];
  if (title) return `more like ${title}`;
  return turn.say ? quoted(turn.say) : "what you have";
}

function showTurns() {
  const items = turns.map((turn, place) => {
    const label = labelOf(turn, place);
    const item = element("li", label);
    const titles = titlesOf(place);
    if (place && titles.length && titlesOf(place - 1).length) {
      const fresh = titles.filter((t) => !titlesOf(place - 1).includes(t)).length;
      item.append(" ", element("span", fresh ? `${fresh} new` : "same titles", "small"));
    }
    if (place) {
      item.append(button("×", `Take back: ${label}`, () =>
        busy(() => changeTurns(turns.filter((_, other) => other !== place)))));
    } else if (titles.length) {
      item.append(" ", element("span", `best: ${titles[0]}`, "small"));
    }
    return item;
  });
  of("turns").hidden = turns.length < 2;
  of("turns").replaceChildren(...items);
  of("turns").scrollTop = of("turns").scrollHeight;
}

// Turns that cannot be answered are not kept.
async function changeTurns(changed) {
  const last = turns;
  turns = changed;
  try {
    await rank();
  } catch (error) {
    turns = last;
    throw error;
  }
}

const beginAnew = () => changeTurns([{ say: of("query").value.trim() }]);
// The same wish, of somebody who has something else by now, keeps what was said
// since.
const begin = () =>
  of("query").value.trim() === turns[0].say ? changeTurns(turns) : beginAnew();
const goOn = (turn) => changeTurns([...turns, turn]);

// Each turn is told with all before it, so that any server may answer.
async function converse({ query, ...shared }) {
  const isSame = ({ turn }, place) =>
    turn.say === turns[place]?.say && turn.not === turns[place]?.not;
  // "The second" is that of the titles that were shown, whatever one has now.
  let known = answered.every(isSame) ? answered : [];
  // Of all that are known, the last gives the answer.
  if (known.length === turns.length) known = known.slice(0, -1);
  for (const turn of turns.slice(known.length)) {
    const now = ({ say = "", not }) => ({ query: say, refused: not ? [not] : [] });
    const answer = await fetched("v1/chat/recommend", {
      ...shared,
      ...now(turn),
      turns: known.map(({ turn, titles }) => ({ ...now(turn), shown: titles })),
      top_n: LISTED,
    });
    const titles = answer.results.map(({ document }) => document.text);
    known = [...known, { turn, titles, answer }];
  }
  answered = known;
  return known.at(-1).answer;
}

// What holds for all titles, in a visitor's words.
function holding({
  required = [], denied = [], unread = "", given_up = [], scarce = [],
}) {
  const all = (words, or = " and ") => words.map(quoted).join(or);
  const kept = required.filter((words) => !words.some((w) => given_up.includes(w)));
  return [
    kept.length && `All have ${kept.map((words) => all(words, " or ")).join(" and ")}.`,
    denied.length && `None has ${all(denied, " or ")}.`,
    unread && `No title has a word of ${quoted(unread)}: only the model reads it.`,
    given_up.length && `No title was left with ${all(given_up)}, so that was given up.`,
    scarce.length && `Too few have ${all(scarce)}: others come near.`,
  ].filter(Boolean).join(" ");
}

// Of titles of one's own: what the model cannot know.
function unlearned(unknown, all) {
  if (!unknown) return "";
  const which = unknown === all
    ? "None of these titles is in the catalogue"
    : `${unknown} of these ${all} titles are not in the catalogue`;
  return `${which}: the model has not learned them, so take the order with care.`;
}

// --- What the model reads.

function showInstruction(answer) {
  of("instruction").textContent = answer.instruction;
  const notes = [`Template ${answer.template} ${answer.aspects}.`];
  if (answer.items_dropped) {
    notes.push(`${answer.items_dropped} oldest titles are left out for length.`);
  }
  of("composed").textContent = notes.join(" ");
  of("reasoning").textContent = answer.reasoning
    ? `The model's reasoning: ${answer.reasoning}`
    : "";
}

// Answers may overtake each other: only the last question's counts.
let composing = 0;
async function compose() {
  const mine = ++composing;
  const body = said();
  const titles = lines(of("candidates").value);
  if (!wholeCatalogue() && titles.length) body.documents = titles;
  if (!body.query && !body.history && !body.preference) return;
  try {
    const answer = await fetched("v1/instructions", body);
    if (mine !== composing) return;
    showInstruction(answer);
    flagUnknown(answer);
  } catch (error) {
    if (mine === composing) of("composed").textContent = error.message;
  }
}

function afterAWhile(action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, 300);
  };
}

const composeSoon = afterAWhile(compose);

// --- The ranking.

function moved(title, place) {
  if (!before.size) return null;
  const last = before.get(title);
  if (last === undefined) return element("span", "new", "moved up");
  if (last === place) return null;
  const places = Math.abs(last - place);
  const up = last > place;
  const mark = element("span", `${up ? "▲" : "▼"} ${places}`, "moved");
  mark.classList.add(up ? "up" : "down");
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", `${up ? "up" : "down"} ${places}`);
  return mark;
}

function percent(chance) {
  if (chance > 0 && chance < 0.001) return "<0.1%";
  return `${(100 * chance).toFixed(chance < 0.1 ? 1 : 0)}%`;
}

function showSkeleton() {
  const rows = Array.from({ length: 5 }, () => element("li", "", "skeleton"));
  of("ranking").replaceChildren(...rows);
  of("ranking").setAttribute("aria-hidden", "true");
  for (const id of ["weights", "after"]) of(id).hidden = true;
}

// The title beside it says what it shows. One that does not load goes.
function picture(address) {
  const image = document.createElement("img");
  image.alt = "";
  image.loading = "lazy";
  image.referrerPolicy = "no-referrer";
  image.addEventListener("error", () => image.remove());
  image.src = address;
  return image;
}

function showRanking(results) {
  const places = new Map();
  const most = Math.max(...results.map((result) => result.relevance_score), 1e-9);
  const items = results.map((result, index) => {
    const title = result.document.text;
    places.set(title, index + 1);
    const item = document.createElement("li");
    const share = (100 * result.relevance_score) / most;
    item.style.setProperty("--share", `${share.toFixed(1)}%`);
    const named = element("span", title, "named");
    if (result.document.image) named.prepend(picture(result.document.image));
    const mark = moved(title, index + 1);
    if (mark) named.append(" ", mark);
    const actions = element("span", "", "actions");
    if (wholeCatalogue() || results.length > 1) {
      const id = index ? "" : "why";
      const ask = () => busy(() => why(title));
      actions.append(button("Why?", `Why? ${title}`, ask, id));
    }
    actions.append(
      button("More like this", `More like this: ${title}`, () =>
        moreLike(title, index + 1)),
      button("Not this", `Not this: ${title}`, () => notThis(title)),
    );
    item.append(
      element("span", String(index + 1), "place"),
      named,
      element("span", percent(result.relevance_score), "score"),
      actions,
    );
    return item;
  });
  of("ranking").removeAttribute("aria-hidden");
  of("ranking").replaceChildren(...items);
  before = places;
}

// The one place that asks for a ranking.
async function answerTo(body) {
  // Of a history alone: there is nothing else to reason about.
  if (converses()) return converse(body);
  body.reason = of("reason").checked && !!body.history && !body.preference;
  if (wholeCatalogue()) {
    const left = rejected().length + liked(body.query).length;
    body.top_n = Math.min(LISTED + left, MOST_LISTED);
    return fetched("v1/recommend", body);
  }
  body.documents = lines(of("candidates").value);
  body.return_documents = true;
  if (!body.documents.length) {
    throw new Error(
      "Write the titles to choose from, one a line, under More choices.",
    );
  }
  return fetched("v1/rerank", body);
}

async function rank() {
  const body = said(turns[0].say);
  if (!body.query && !body.history && !body.preference) {
    of("query").focus();
    throw new Error("Say a wish first, or add a title that you have.");
  }
  const last = [...of("ranking").childNodes];
  showSkeleton();
  of("status").textContent = "Looking …";
  toRanking();
  let answer;
  try {
    answer = await answerTo(body);
  } catch (error) {
    of("ranking").replaceChildren(...last);
    of("ranking").removeAttribute("aria-hidden");
    of("status").textContent = last.length
      ? "No new answer: the titles below are those from before."
      : "There was no answer.";
    of("after").hidden = !last.length;
    throw error;
  }
  composing++;
  showInstruction(answer);
  flagUnknown(answer);
  const again = before.size > 0;
  const left = new Set([...rejected(), ...liked(body.query)]);
  const all = answer.results.filter(({ document }) => !left.has(document.text));
  const shown = wholeCatalogue() ? all.slice(0, LISTED) : all;
  showRanking(shown);
  asked = {
    ...said(answer.wish ?? body.query),
    template: answer.template,
    results: shown,
  };
  if (!converses()) answered = [];
  showTurns();
  of("refine").hidden = !converses();
  // The turns say what it is for, where they are shown.
  of("status").textContent = [
    turns.length > 1 ? "" : `For ${labelOf(turns[0], 0)}.`,
    again ? "Marks show what has changed since the last answer." : "",
    holding(answer),
    unlearned(answer.unknown_documents, answer.results.length),
  ].join(" ").trim();
  of("after").hidden = false;
  of("shared").textContent = "";
  if (toAddress() !== (location.hash || location.pathname)) {
    window.history.pushState(null, "", toAddress());
  }
}

// To where the ranking appears: on a phone it is below the wish.
function toRanking() {
  of("ranking-heading").focus({ preventScroll: true });
  const { top } = of("results").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 3) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    of("results").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  }
}

const LIKE = "something like ";

// What one asks for more of is not shown again.
const liked = (wish) =>
  wish.startsWith(LIKE) ? [wish.slice(LIKE.length)] : [];

const ENDS = { 1: "st", 2: "nd", 3: "rd" };

function moreLike(title, place) {
  if (converses()) {
    const say = `more like the ${place}${ENDS[place] ?? "th"}`;
    return busy(() => goOn({ say }));
  }
  of("query").value = LIKE + title;
  return busy(beginAnew);
}

const notThis = (title) => busy(() => goOn({ not: title }));

// How much likelier a weight makes an answer, in words.
function times(weight) {
  const factor = Math.exp(Math.abs(weight));
  if (factor < 1.05) return "no difference";
  const shown = factor > 1000 ? "over 1,000" : factor.toPrecision(2);
  return `${Number(shown) || shown} times ${weight > 0 ? "likelier" : "less likely"}`;
}

// What a title is found for, against the catalogue or all of one's own titles.
async function why(title) {
  const { results, ...body } = asked;
  body.title = title;
  if (!wholeCatalogue()) {
    const titles = results.map((result) => result.document.text);
    const others = titles.filter((other) => other !== title);
    body.documents = [title, ...others].slice(0, MOST_EXPLAINED);
  }
  const answer = await fetched("v1/explain", body);
  of("weights-heading").textContent = `Why ${answer.title}`;
  of("weight-list").replaceChildren(
    ...answer.weights.flatMap((part) => [
      element("dt", part.text.replace(/[\s.,;:!?]+$/, "") || part.text),
      element("dd", times(part.weight)),
    ]),
  );
  if (!answer.weights.length) {
    of("weight-list").append(
      element("dt", "There is only one word: without it nothing is left."),
    );
  }
  of("weights").hidden = false;
  of("weights-heading").focus();
}

// Runs what is asked for, one at a time: the last that comes meanwhile is next.
let next = null;
async function busy(action) {
  if (document.body.hasAttribute("aria-busy")) {
    next = action;
    return;
  }
  of("problem").textContent = "";
  document.body.setAttribute("aria-busy", "true");
  // Not disabled: it would lose the focus.
  of("rank").setAttribute("aria-disabled", "true");
  try {
    await action();
  } catch (error) {
    of("problem").textContent = error.message;
    if (error instanceof NoKey) of("key").focus();
    else of("problem").scrollIntoView({ block: "center" });
  }
  of("rank").removeAttribute("aria-disabled");
  document.body.removeAttribute("aria-busy");
  const waiting = next;
  next = null;
  if (waiting && waiting !== action) await busy(waiting);
}

// --- The catalogue.

let searching = 0;
async function browse(offset = 0) {
  const mine = ++searching;
  const search = encodeURIComponent(of("search").value.trim());
  const path = `v1/items?limit=${PAGE}&offset=${offset}&search=${search}`;
  const found = await fetched(path).catch((error) => {
    of("counted").textContent = error.message;
  });
  if (!found || mine !== searching) return;
  const items = found.items.map((title) => {
    const item = element("li", "");
    item.append(
      element("span", title, "named"),
      button("I have it", `I have it: ${title}`, () => has(title)),
    );
    return item;
  });
  if (offset) of("titles-list").append(...items);
  else of("titles-list").replaceChildren(...items);
  const listed = of("titles-list").childElementCount;
  of("more").hidden = listed >= found.total;
  of("counted").textContent = found.total
    ? `${listed.toLocaleString()} of ${found.total.toLocaleString()} titles`
    : "No title has these words.";
}

async function showExamples() {
  const found = await fetched("v1/examples").catch(() => null);
  if (!found || !(found.wishes.length || found.history.length)) return;
  const tryIt = (text, say) => {
    const item = document.createElement("li");
    item.append(button(text, text, () => {
      say();
      busy(beginAnew);
    }));
    return item;
  };
  of("example-list").replaceChildren(
    ...found.wishes.map((text) =>
      tryIt(text, () => {
        of("query").value = text;
      }),
    ),
    tryIt(`for someone with ${found.history.join(" and ")}`, () => {
      of("query").value = "";
      history = [...found.history];
      showHistory();
    }),
  );
  of("examples").hidden = false;
}

async function share() {
  const address = location.origin + location.pathname + toAddress();
  try {
    await navigator.clipboard.writeText(address);
    of("shared").textContent = "Copied.";
  } catch {
    // Without HTTPS a script may not write to the clipboard.
    of("shared").textContent = "The address of this page is the link.";
  }
}

function clear() {
  window.history.pushState(null, "", location.pathname);
  fromAddress();
  before = new Map();
  asked = null;
  of("ranking").replaceChildren();
  for (const id of ["weights", "after", "refine"]) of(id).hidden = true;
  showTurns();
  of("status").textContent = "Say a wish, or tell what you have.";
  of("problem").textContent = "";
  of("query").focus();
}

of("add").addEventListener("click", addTitle);
of("title").addEventListener("input", afterAWhile(suggest));
of("title").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  addTitle();
});
for (const id of ["query", "kind", "candidates", "preference", "context"]) {
  of(id).addEventListener("input", composeSoon);
}
of("query").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  of("ask").requestSubmit();
});
for (const radio of document.querySelectorAll("[name=source]")) {
  radio.addEventListener("change", () => {
    chooseSource(radio.value);
    composeSoon();
  });
}
of("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(begin);
});
of("refine").addEventListener("submit", (event) => {
  event.preventDefault();
  const say = of("change").value.trim();
  if (!say) return of("change").focus();
  busy(async () => {
    await goOn({ say });
    of("change").value = "";
  });
});
of("search").addEventListener("input", afterAWhile(() => browse()));
of("more").addEventListener("click", () =>
  browse(of("titles-list").childElementCount));
of("clear").addEventListener("click", clear);
of("share").addEventListener("click", share);
function useKey() {
  sessionStorage.setItem(KEY, of("key").value.trim());
  busy(start);
}
of("use-key").addEventListener("click", useKey);
of("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  useKey();
});
addEventListener("popstate", () => {
  if (fromAddress()) busy(rank);
  else clear();
});

async function start() {
  const health = await fetched("healthz");
  catalogue = health.catalogue;
  of("served").textContent = `${health.model}: ` + (catalogue
    ? `${catalogue.toLocaleString()} titles to choose from`
    : "no catalogue; bring titles of your own");
  of("sources").hidden = of("catalogue").hidden = !catalogue;
  // Without a catalogue they are what there is to choose from.
  if (!catalogue) of("titles").closest("details").open = true;
  const wished = fromAddress();
  // Asks for the key, if one is needed.
  await fetched("v1/models");
  if (catalogue) {
    browse();
    showExamples();
  }
  if (wished) await rank();
}

busy(start);
