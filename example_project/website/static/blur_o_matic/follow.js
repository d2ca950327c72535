// The elements show each work by themselves. What depends on all of them (Cancel, See file, the picture, why one waits)
// is fetched anew when one of them changes its state; and only that, so that nobody's focus or reading is lost.
const PARTS = ["#outcome", ".frame"];
// Milliseconds. Why a work waits may change while the work itself doesn't.
const AGAIN = 3000;
const states = new Map();
let asked = 0;
let timer;

async function refresh() {
  const mine = ++asked;
  clearTimeout(timer);
  if ([...states.values()].includes("ENQUEUED")) timer = setTimeout(refresh, AGAIN);
  if (document.hidden) return;
  try {
    const response = await fetch(location.href, { cache: "no-store" });
    if (response.status === 404) return location.reload(); // swept out, or the session has ended
    if (!response.ok || mine !== asked) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const areGone = !fresh.querySelector("work-progress");
    for (const part of areGone ? [...PARTS, ".steps"] : PARTS) {
      replace(document.querySelector(part), fresh.querySelector(part));
    }
  } catch {
    // The site is away for a moment; the next change, or a reload, shows it.
  }
}

function replace(old, made) {
  if (!old || !made || textOf(old) === textOf(made)) return;
  const focused = old.contains(document.activeElement);
  old.replaceWith(made);
  if (focused) made.querySelector("a, button")?.focus();
}

// Each answer has a form token of its own.
const textOf = (part) => part.outerHTML.replace(/name="csrfmiddlewaretoken" value="\w+"/, "");

function note(id, state) {
  if (states.get(id) === state) return;
  states.set(id, state);
  refresh();
}

for (const each of document.querySelectorAll("work-progress")) states.set(each.dataset.work, each.dataset.state);
document.addEventListener("workchange", (event) => note(event.detail.id, event.detail.state));
document.addEventListener("workgone", (event) => note(event.target.dataset.work, "GONE"));
document.addEventListener("visibilitychange", refresh);
document.documentElement.classList.add("follows");
if ([...states.values()].includes("ENQUEUED")) timer = setTimeout(refresh, AGAIN);
