// The page's only script. Texts of users and catalogues are set as text alone.

const of = (id) => document.getElementById(id);
// Titles that /v1/explain takes.
const MOST_EXPLAINED = 100;

let history = [];
// Places of the ranking before, to tell what has moved.
let before = new Map();
let catalogue = 0;
let asked = null;
// The words that the ranking is for.
let wish = "";

async function fetched(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options || undefined);
  } catch {
    throw new Error("The server does not answer.");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.message || `Status ${answer.status}.`);
  return found;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const lines = (text) => [
  ...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean)),
];

function wholeCatalogue() {
  return document.querySelector("[name=source]:checked").value === "catalogue";
}

function said() {
  const body = { query: of("query").value.trim(), kind: of("kind").value };
  if (history.length) body.history = history;
  for (const name of ["preference", "context"]) {
    const text = of(name).value.trim();
    if (text) body[name] = text;
  }
  return body;
}

function showHistory() {
  of("history").replaceChildren(
    ...history.map((title, place) => {
      const item = element("li", title);
      const remove = element("button", "×");
      remove.type = "button";
      remove.setAttribute("aria-label", `Remove ${title}`);
      remove.addEventListener("click", () => {
        history.splice(place, 1);
        showHistory();
        of("title").focus();
        composeSoon();
      });
      item.append(remove);
      return item;
    }),
  );
}

function addTitle() {
  const title = of("title").value.trim();
  if (!title) return;
  history.push(title);
  of("title").value = "";
  of("found").replaceChildren();
  showHistory();
  of("title").focus();
  composeSoon();
}

function showInstruction(answer) {
  of("instruction").textContent = answer.instruction;
  let notes = `Template ${answer.template}, ${answer.aspects}`;
  if (answer.items_dropped) {
    notes += `; ${answer.items_dropped} oldest titles left out for length`;
  }
  of("composed").textContent = notes;
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
    const answer = await fetched("/v1/instructions", body);
    if (mine === composing) showInstruction(answer);
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

function showRanking(results) {
  const places = new Map();
  const items = results.map((result, index) => {
    const title = result.document.text;
    places.set(title, index + 1);
    const share = `${(100 * result.relevance_score).toFixed(1)}%`;
    const item = document.createElement("li");
    item.style.setProperty("--share", share);
    const likelihood = result.log_likelihood.toFixed(2).replace("-", "−");
    const named = element("span", title, "named");
    const mark = moved(title, index + 1);
    if (mark) named.append(" ", mark);
    const score = element("span", share, "score");
    score.append(" ", element("small", likelihood));
    item.append(element("span", String(index + 1), "place"), named, score);
    return item;
  });
  of("ranking").replaceChildren(...items);
  before = places;
}

async function rank() {
  const body = said();
  const whole = wholeCatalogue();
  if (!whole) {
    body.documents = lines(of("candidates").value);
    body.return_documents = true;
    if (!body.documents.length) {
      throw new Error("Write the titles to rank, one a line.");
    }
  }
  const answer = await fetched(whole ? "/v1/recommend" : "/v1/rerank", body);
  composing++;
  showInstruction(answer);
  const again = before.size > 0;
  showRanking(answer.results);
  const titles = answer.results.map((result) => result.document.text);
  // In the same template: else another ranking would be explained.
  asked = { ...body, documents: titles, template: answer.template };
  delete asked.return_documents;
  of("why").hidden = titles.length < 2 || titles.length > MOST_EXPLAINED;
  of("weights").hidden = true;
  const last = wish;
  wish = body.query ? `“${body.query}”` : "your history";
  of("status").textContent =
    `For ${wish}: ${titles.length} titles, the likeliest first, with their ` +
    "share and log-likelihood." +
    (again ? ` Marks tell what has moved since ${last}.` : "");
}

async function explain() {
  const answer = await fetched("/v1/explain", asked);
  const first = answer.results[0].index;
  of("weights-heading").textContent =
    `What speaks for “${asked.documents[first]}”`;
  of("weight-list").replaceChildren(
    ...answer.weights.flatMap((part) => [
      element("dt", part.text),
      element("dd", `${part.weight > 0 ? "+" : "−"}${Math.abs(part.weight).toFixed(2)}`),
    ]),
  );
  if (!answer.weights.length) {
    of("weight-list").append(element("dt", "No word can be left out."));
  }
  of("weights").hidden = false;
  of("weights-heading").focus();
}

// Runs what a button asks for, one at a time.
async function busy(button, action) {
  if (document.body.hasAttribute("aria-busy")) return;
  of("problem").textContent = "";
  // Not disabled: it would lose the focus.
  button.setAttribute("aria-disabled", "true");
  document.body.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    of("problem").textContent = error.message;
  }
  button.removeAttribute("aria-disabled");
  document.body.removeAttribute("aria-busy");
}

async function suggest() {
  const text = of("title").value.trim();
  if (!catalogue || text.length < 2) return;
  const path = `/v1/items?limit=12&search=${encodeURIComponent(text)}`;
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

async function sample() {
  let titles = [
    "Canvas Tent", "Down Sleeping Bag", "Cast Iron Pan", "Chess Set",
    "Trail Running Shoes", "Espresso Machine", "Head Lamp", "Yoga Mat",
  ];
  if (catalogue) {
    const { items } = await fetched("/v1/items?limit=100");
    // A few from all over the catalogue.
    const step = Math.max(1, Math.floor(items.length / 8));
    titles = items.filter((_, place) => place % step === 0).slice(0, 8);
  }
  history = titles.slice(0, 2);
  of("candidates").value = titles.slice(2).join("\n");
  of("query").value = `I want something like ${titles[titles.length - 1]}`;
  showHistory();
  await compose();
}

function showSource() {
  of("titles").hidden = wholeCatalogue();
  composeSoon();
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
  radio.addEventListener("change", showSource);
}
of("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(of("rank"), rank);
});
of("why").addEventListener("click", () => busy(of("why"), explain));
of("sample").addEventListener("click", () => {
  sample().catch((error) => { of("problem").textContent = error.message; });
});

try {
  const health = await fetched("/healthz");
  catalogue = health.catalogue;
  of("served").textContent = `${health.model}, ` + (catalogue
    ? `${catalogue.toLocaleString()} titles in the catalogue`
    : "no catalogue");
  if (catalogue) {
    of("sources").hidden = false;
    document.querySelector("[value=catalogue]").checked = true;
    showSource();
  }
} catch (error) {
  of("problem").textContent = error.message;
}
