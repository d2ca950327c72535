/*
 * <work-progress data-work="ID" data-url="/works/"> shows a work's state and progress, and keeps them up to date.
 *
 * data-url is where the project includes celery_workmanager.django.urls. What the server rendered inside is taken over
 * (see the template tag work_progress); an empty element is filled. data-label names the work for those who can't see
 * the bar, data-running="…" (data-enqueued, data-succeeded …) words a state, data-poll does without a stream.
 *
 * Events, all of which bubble, with the work as the JSON view tells it in `detail`: "workchange" after each change,
 * "workfinish" after the last one, "workgone" (no detail) when the work was deleted or may no longer be seen.
 */
(() => {
  "use strict";

  const WORDS = {
    ENQUEUED: "Waiting",
    RUNNING: "Running",
    SUCCEEDED: "Done",
    FAILED: "Failed",
    BLOCKED: "Waiting for other work",
    CANCELLED: "Cancelled",
  };
  const FINISHED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
  const POLL = 2000;
  const FIRST_WAIT = 500;
  const LONGEST_WAIT = 30000;
  // What the server takes in one request.
  const MOST = 50;
  // Streams that fail one after another before a page is content with polling.
  const PATIENCE = 3;
  // A stream that lived for so long did not fail.
  const GOOD_STREAM = 5000;

  /** All elements of a page that watch works behind one URL share a stream: browsers open only six to a server. */
  class Feed {
    static all = new Map();

    static at(url) {
      const absolute = new URL(url, document.baseURI).href;
      if (!Feed.all.has(absolute)) Feed.all.set(absolute, new Feed(absolute));
      return Feed.all.get(absolute);
    }

    constructor(url) {
      this.url = url;
      this.elements = new Set();
      this.patience = "EventSource" in window ? PATIENCE : 0;
      this.failures = 0;
      // A page that nobody looks at holds no connection.
      document.addEventListener("visibilitychange", () => this.plan(0));
    }

    add(element) {
      this.elements.add(element);
      if ("poll" in element.dataset) this.patience = 0;
      this.plan(0);
    }

    remove(element) {
      this.elements.delete(element);
      this.plan(0);
    }

    plan(wait) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.connect(), wait);
    }

    /** A longer wait after each failure, and never the same for all pages. */
    planAgain() {
      const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures++);
      this.plan(wait * (0.5 + Math.random() / 2));
    }

    connect() {
      this.close();
      const watched = [...this.elements].filter((element) => element.isWatching);
      if (!watched.length || document.hidden) return;
      const ids = [...new Set(watched.map((element) => element.work))];
      if (this.patience && ids.length <= MOST) this.stream(ids, watched);
      else this.poll(ids);
    }

    close() {
      clearTimeout(this.timer);
      this.source?.close();
      this.source = null;
      this.asking?.abort();
      this.asking = null;
    }

    stream(ids, watched) {
      const source = new EventSource(`${this.url}events?${query(ids)}&after=${encodeURIComponent(seen(ids, watched))}`);
      let opened = null;
      this.source = source;
      source.addEventListener("open", () => {
        opened = performance.now();
        this.patience = PATIENCE;
      });
      source.addEventListener("work", (event) => this.show(JSON.parse(event.data)));
      source.addEventListener("gone", (event) => this.tellGone(JSON.parse(event.data).id));
      source.addEventListener("end", () => this.close());
      source.addEventListener("error", () => {
        // The browser would come back to the same URL; we know by now what we have seen, and wait longer each time.
        source.close();
        if (this.source !== source) return;
        if (opened === null) {
          this.patience -= 1;
          this.poll(ids);
          return;
        }
        // The server ends each stream after a while.
        if (performance.now() - opened > GOOD_STREAM) this.failures = 0;
        this.planAgain();
      });
    }

    async poll(ids) {
      const asking = new AbortController();
      this.asking = asking;
      try {
        for (let at = 0; at < ids.length; at += MOST) await this.ask(ids.slice(at, at + MOST), asking.signal);
        this.failures = 0;
        if (!asking.signal.aborted) this.plan(POLL);
      } catch {
        if (!asking.signal.aborted) this.planAgain();
      }
    }

    async ask(ids, signal) {
      const headers = { Accept: "application/json" };
      const response = await fetch(`${this.url}?${query(ids)}`, { headers, signal, cache: "no-store" });
      if (!response.ok && response.status !== 404) throw new Error(response.statusText);
      const found = response.ok ? (await response.json()).works : [];
      found.forEach((work) => this.show(work));
      const known = new Set(found.map((work) => work.id));
      ids.filter((id) => !known.has(id)).forEach((id) => this.tellGone(id));
    }

    show(work) {
      this.of(work.id).forEach((element) => element.show(work));
    }

    tellGone(id) {
      this.of(id).forEach((element) => element.tellGone());
    }

    of(id) {
      return [...this.elements].filter((element) => element.work === id);
    }
  }

  const query = (ids) => ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");

  /** The versions that the page has, as the server writes them into the ids of its events. */
  const seen = (ids, watched) => {
    const versions = new Map(watched.filter((each) => each.version).map((each) => [each.work, each.version]));
    if (ids.length === 1) return versions.get(ids[0]) ?? "";
    return new URLSearchParams([...versions]).toString();
  };

  class WorkProgress extends HTMLElement {
    get work() {
      return this.dataset.work;
    }

    get version() {
      return this.dataset.version;
    }

    get isWatching() {
      return !this.isGone && !FINISHED.has(this.dataset.state);
    }

    connectedCallback() {
      if (!this.dataset.work || !this.dataset.url) return;
      this.feed = Feed.at(this.dataset.url);
      this.feed.add(this);
    }

    disconnectedCallback() {
      this.feed?.remove(this);
    }

    show(work) {
      // An answer may be overtaken by the stream.
      if (Number(work.version) <= Number(this.version ?? -1)) return;
      this.dataset.version = work.version;
      this.dataset.state = work.state;
      this.dataset.paused = work.paused;
      say(this.part("state", "span", (made) => made.setAttribute("role", "status")), this.wordFor(work.state));
      this.showBar(work);
      say(this.part("note", "span"), noteOf(work));
      this.tell("workchange", work);
      if (work.is_finished) this.tell("workfinish", work);
    }

    showBar(work) {
      const bar = this.part("bar", "progress", (made) => {
        made.max = 100;
        made.setAttribute("aria-label", this.dataset.label || work.worker_name);
      });
      if (work.percent !== null) bar.value = work.percent;
      else if (work.state === "RUNNING") bar.removeAttribute("value");
      else bar.value = 0;
    }

    tellGone() {
      if (this.isGone) return;
      this.isGone = true;
      this.tell("workgone");
    }

    wordFor(state) {
      return this.dataset[state.toLowerCase()] || WORDS[state] || state;
    }

    part(name, tag, prepare) {
      let found = this.querySelector(`[data-part="${name}"]`);
      if (!found) {
        found = document.createElement(tag);
        found.dataset.part = name;
        prepare?.(found);
        this.append(found, " ");
      }
      return found;
    }

    tell(kind, detail = null) {
      this.dispatchEvent(new CustomEvent(kind, { detail, bubbles: true }));
    }
  }

  /** Only what is new: a screen reader may say it once more. */
  const say = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  const noteOf = (work) => {
    if (work.paused) return "paused";
    if (work.state === "FAILED") return work.error ?? "";
    return work.state === "RUNNING" && work.percent !== null ? `${Math.round(work.percent)} %` : "";
  };

  customElements.define("work-progress", WorkProgress);
})();
