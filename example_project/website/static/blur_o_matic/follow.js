// The elements show each work by themselves. What depends on all of them (Cancel, See file, the picture) is fetched
// anew when one of them changes its state; and only that, so that nobody's focus or reading is lost.
const PARTS = ["#outcome", ".frame"];
const states = new Map();
let asked = 0;

async function refresh() {
  const mine = ++asked;
  try {
    const response = await fetch(location.href, { cache: "no-store" });
    if (response.status === 404) return location.reload();  // swept out, or the session has ended
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
  if (!old || !made || old.isEqualNode(made)) return;
  const focused = old.contains(document.activeElement);
  old.replaceWith(made);
  if (focused) made.querySelector("a, button")?.focus();
}

for (const each of document.querySelectorAll("work-progress")) states.set(each.dataset.work, each.dataset.state);

document.addEventListener("workchange", (event) => {
  const { id, state } = event.detail;
  if (states.get(id) === state) return;
  states.set(id, state);
  refresh();
});
document.addEventListener("workgone", refresh);
document.documentElement.classList.add("follows");
