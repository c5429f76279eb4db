// What Gradio's components do not do: the strip that follows the player, and results that a screen reader is told of.
(() => {
  const status = () => document.getElementById("os-status");
  const say = (text) => { if (status()) status().textContent = text; };
  const playerOf = (strip) => strip.closest(".os-course").querySelector(".os-player");
  const cellsOf = (strip) => [...strip.querySelectorAll(".os-cell")];
  const startOf = (cell) => Number(cell.dataset.start);

  function show(strip, seconds) {
    const cells = cellsOf(strip);
    let index = cells.findIndex((cell) => startOf(cell) > seconds + 1e-3) - 1;
    if (index === -2) index = cells.length - 1;
    const cell = cells[Math.max(index, 0)];
    cells.forEach((one) => one.classList.toggle("os-current", one === cell));
    strip.querySelector(".os-cursor").style.left = `${Math.min(100, 100 * seconds / Number(strip.dataset.seconds))}%`;
    strip.setAttribute("aria-valuenow", String(cells.indexOf(cell) + 1));
    strip.setAttribute("aria-valuetext", cell.dataset.said);
    strip.nextElementSibling.nextElementSibling.textContent = cell.dataset.said;
  }

  function seek(strip, index) {
    const cells = cellsOf(strip);
    const start = startOf(cells[Math.min(Math.max(index, 0), cells.length - 1)]);
    playerOf(strip).currentTime = start;
    strip.closest(".os-course").querySelectorAll(".os-strip").forEach((one) => show(one, start));
  }

  document.addEventListener("click", (event) => {
    const cell = event.target.closest?.(".os-cell");
    if (cell) seek(cell.parentElement, cellsOf(cell.parentElement).indexOf(cell));
  });

  document.addEventListener("keydown", (event) => {
    const strip = event.target.closest?.(".os-strip");
    if (!strip || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = Number(strip.getAttribute("aria-valuenow")) - 1, last = cellsOf(strip).length - 1;
    const page = Math.max(1, Math.round(last / 10));
    const next = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, Home: 0, End: last,
      PageUp: now + page, PageDown: now - page }[event.key];
    if (next !== undefined) seek(strip, next);
    else if (event.key === " " || event.key === "Enter") {
      const player = playerOf(strip);
      player.paused ? player.play() : player.pause();
    } else return;
    event.preventDefault();
  });

  // Media events do not bubble, but they are captured.
  for (const name of ["timeupdate", "seeked"]) {
    document.addEventListener(name, (event) => {
      const course = event.target.matches?.(".os-player") && event.target.closest(".os-course");
      if (course) course.querySelectorAll(".os-strip").forEach((strip) => show(strip, event.target.currentTime));
    }, true);
  }
  document.addEventListener("error", (event) => {
    if (event.target.matches?.(".os-player")) event.target.closest(".os-course").querySelector(".os-unplayable").hidden = false;
  }, true);

  let said = "";
  new MutationObserver(() => {
    // The header of Gradio's message is a button around a button; its close button is enough.
    for (const header of document.querySelectorAll(".toast-header[role]")) {
      header.removeAttribute("role");
      header.removeAttribute("tabindex");
    }
    const results = [...document.querySelectorAll("[data-said]:not(.os-cell)")].map((one) => one.dataset.said);
    const errors = [...document.querySelectorAll(".toast-message-text")].map((one) => `Error: ${one.textContent}`);
    const found = [...results, ...errors].join(". ");
    if (found && found !== said) say(found);
    said = found;
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-said", "role"] });
  window.omnisentBusy = () => { said = ""; say("Scoring…"); };
})();
