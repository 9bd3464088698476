// Refresh the parts of the page that are in view. A part is one request; the server answers 304 while it is unchanged.
const MIN_SECONDS = 2, MAX_SECONDS = 15, MAX_SECONDS_AFTER_ERROR = 30;
// A record that takes long to read is read less often.
const REST_PER_WORK = 10, MAX_REST_SECONDS = 60;
// The library of figures keeps a little memory for each redrawn part, so a page that is open for a day starts again.
const MAX_REDRAWN_PARTS = 5000;

const problem = document.getElementById("problem");
const freshness = document.getElementById("freshness");
const plotlyFile = document.currentScript.dataset.plotly;
const parts = [...document.querySelectorAll("[data-live]")].map((element) => ({element, tag: null, inView: false, askedAt: -Infinity}));
let seconds = MIN_SECONDS, timer = null, isBusy = false, isAskedAgain = false, isFirst = true, loading = null, redrawnParts = 0;

// Return the library that draws figures. A failed download is repeated at the next call.
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = plotlyFile;
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => { loading = null; script.remove(); reject(new TypeError(plotlyFile)); });
    document.head.append(script);
  });
  return loading;
}

async function load(part) {
  part.askedAt = performance.now();
  const headers = part.tag ? {"If-None-Match": part.tag} : {};
  const answer = await fetch(part.element.dataset.live, {headers, cache: "no-store", signal: AbortSignal.timeout(120000)});
  if (answer.status === 304) return false;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ? body.error.message : `the server answers with status ${answer.status}`);
  await show(part.element, body);
  part.tag = answer.headers.get("ETag");
  redrawnParts += 1;
  return true;
}

async function show(element, fragment) {
  const template = document.createElement("template");
  template.innerHTML = fragment.html;
  const drawn = new Map([...element.querySelectorAll(".plot[id]")].map((plot) => [plot.id, plot]));
  // A drawn figure stays, and only its data changes: zoom and memory survive.
  for (const plot of template.content.querySelectorAll(".plot")) {
    const old = drawn.get(plot.id);
    if (old) { plot.replaceWith(old); drawn.delete(plot.id); }
  }
  const ids = Object.keys(fragment.plots);
  // The shown content stays until the figures can be drawn.
  const library = drawn.size || ids.length ? await plotly() : null;
  for (const old of drawn.values()) library.purge(old);
  element.replaceChildren(template.content);
  element.classList.remove("later");
  element.closest("section").classList.toggle("empty", fragment.html === "");
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  for (const id of ids) {
    const {data, layout} = fragment.plots[id];
    const options = {displaylogo: false, responsive: true, modeBarButtons: buttons};
    const plot = document.getElementById(id);
    // Plotly forgets the height of a figure when the window changes its size, and then asks the element.
    plot.style.height = `${layout.height}px`;
    await library.react(plot, data, {...layout, uirevision: "kept"}, options);
  }
}

// First the parts in view, then the parts that were never loaded.
function next(done) {
  const left = parts.filter((part) => !done.has(part));
  return left.find((part) => part.inView) || left.find((part) => !part.tag);
}

async function refresh() {
  if (isBusy) { isAskedAgain = true; return; }
  clearTimeout(timer);
  isBusy = true;
  const start = performance.now();
  let hasChanged = false, failure = null;
  try {
    // The server has just written the others into the page.
    const done = new Set(isFirst ? parts.filter((part) => !part.element.classList.contains("later")) : []);
    isFirst = false;
    for (let part = next(done); part && !document.hidden; part = next(done)) {
      done.add(part);
      hasChanged = await load(part) || hasChanged;
    }
  } catch (error) {
    failure = error;
  }
  isBusy = false;
  problem.hidden = !failure;
  if (failure) problem.textContent = failure instanceof TypeError || failure.name === "TimeoutError"
    ? "The server does not answer. This page tries again by itself." : failure.message;
  else freshness.textContent = `as of ${new Date().toLocaleTimeString()}`;
  const work = (performance.now() - start) / 1000;
  if (failure) seconds = Math.min(seconds * 2, MAX_SECONDS_AFTER_ERROR);
  else seconds = hasChanged ? MIN_SECONDS : Math.min(seconds * 1.3, MAX_SECONDS);
  if (document.hidden) return;
  // Not after an error: a browser would show its own page instead of the last state.
  if (redrawnParts >= MAX_REDRAWN_PARTS && !failure) { location.reload(); return; }
  if (isAskedAgain) { isAskedAgain = false; refresh(); return; }
  timer = setTimeout(refresh, 1000 * Math.max(seconds, Math.min(REST_PER_WORK * work, MAX_REST_SECONDS)));
}

const observer = new IntersectionObserver((entries) => {
  let isNew = false;
  for (const entry of entries) {
    const part = parts.find((one) => one.element === entry.target);
    part.inView = entry.isIntersecting;
    isNew = isNew || (part.inView && performance.now() - part.askedAt > 1000 * MIN_SECONDS);
  }
  if (isNew) refresh();
}, {rootMargin: "300px"});
for (const part of parts) observer.observe(part.element);
document.addEventListener("visibilitychange", () => { if (document.hidden) clearTimeout(timer); else refresh(); });
// The text and the preview are painted first: running the library takes longer than everything else.
if (document.querySelector(".later")) requestAnimationFrame(() => setTimeout(() => plotly().catch(() => {})));
