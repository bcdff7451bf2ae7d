"use strict";

// Light or dark: what the system says, until the reader says otherwise.
const root = document.documentElement;
const theme = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
prefersDark.addEventListener("change", nameTheme);
nameTheme();

// Tables: a click on a heading sorts by it, another one turns the order round; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.cells[column].dataset.value]);
    const isText = heading.classList.contains("text");
    rows.sort(([, a], [, b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = isText ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b);
      return ascending ? order : -order;
    });
    table.tBodies[0].append(...rows.map(([row]) => row));
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }));
}

// Pictures: decoded when they come near the window, let go when they are far from it.
const opened = new Set();
const still = matchMedia("(prefers-reduced-motion: reduce)");

function draw(canvas, position) {
  const { image, film } = canvas;
  if (!image) return;
  const frame = Math.min(film.frames - 1, Math.floor(position * film.frames));
  if (canvas.dataset.frame === String(frame)) return;
  canvas.dataset.frame = frame;
  const [left, top] = [frame % film.columns * film.width, Math.floor(frame / film.columns) * film.height];
  canvas.getContext("2d").drawImage(image, left, top, film.width, film.height, 0, 0, film.width, film.height);
}

function show(clip) {
  // The middle of a frame's time, so that pictures with other numbers of frames keep in step.
  const position = (clip.frame + 0.5) / clip.frames;
  for (const canvas of clip.canvases) draw(canvas, position);
  if (clip.scrubber) {
    clip.scrubber.value = clip.frame;
    clip.counter.textContent = `${clip.frame + 1} / ${clip.frames}`;
  }
}

function open(clip) {
  for (const canvas of clip.canvases) {
    const { film } = canvas;
    canvas.width = film.width;
    canvas.height = film.height;
    const image = new Image();
    image.src = "data:image/webp;base64," + document.getElementById(film.name).textContent;
    image.decode().then(() => {
      if (!opened.has(clip)) return;
      canvas.image = image;
      show(clip);
    });
  }
  opened.add(clip);
  requestAnimationFrame(tick);
}

function close(clip) {
  opened.delete(clip);
  for (const canvas of clip.canvases) {
    canvas.image = null;
    canvas.width = canvas.height = 0;
    delete canvas.dataset.frame;
  }
}

let ticking = 0;
function tick(now) {
  if (ticking === now) return;
  ticking = now;
  let playing = false;
  for (const clip of opened) {
    if (!clip.playing) continue;
    playing = true;
    const frame = Math.floor(Math.max(0, now - clip.started) / 1000 * clip.fps) % clip.frames;
    if (frame !== clip.frame) {
      clip.frame = frame;
      show(clip);
    }
  }
  if (playing) requestAnimationFrame(tick);
}

const nearWindow = new IntersectionObserver((entries) => {
  for (const entry of entries) (entry.isIntersecting ? open : close)(entry.target.clip);
}, { rootMargin: "300px" });

function play(clip, playing) {
  clip.playing = playing;
  clip.started = performance.now() - 1000 * clip.frame / clip.fps;
  clip.button.textContent = playing ? "Pause" : "Play";
  if (playing) requestAnimationFrame(tick);
}

for (const element of document.querySelectorAll("[data-clip]")) {
  const clip = { canvases: [...element.querySelectorAll("canvas")], frame: 0, frames: 1, playing: false };
  for (const canvas of clip.canvases) {
    canvas.film = JSON.parse(canvas.dataset.film);
    canvas.style.aspectRatio = `${canvas.film.width} / ${canvas.film.height}`;
    clip.frames = Math.max(clip.frames, canvas.film.frames);
  }
  clip.fps = Number(element.dataset.clip) || 8;
  const player = element.querySelector(".player");
  if (player) {
    clip.button = player.querySelector("button");
    clip.scrubber = player.querySelector("input");
    clip.counter = player.querySelector("output");
    clip.button.addEventListener("click", () => play(clip, !clip.playing));
    clip.scrubber.addEventListener("input", () => {
      play(clip, false);
      clip.frame = Number(clip.scrubber.value);
      show(clip);
    });
    play(clip, !still.matches);
  }
  element.clip = clip;
  nearWindow.observe(element);
}

// Original against reconstruction: dragged anywhere on the picture, or moved by the arrow keys.
for (const stack of document.querySelectorAll(".stack")) {
  const slider = stack.querySelector("input");
  const place = () => stack.style.setProperty("--cut", `${slider.value}%`);
  const follow = (event) => {
    const box = stack.getBoundingClientRect();
    slider.value = 100 * (event.clientX - box.left) / box.width;
    place();
  };
  slider.addEventListener("input", place);
  stack.addEventListener("pointerdown", (event) => {
    stack.setPointerCapture(event.pointerId);
    slider.focus({ focusVisible: false, preventScroll: true });
    follow(event);
    event.preventDefault();
  });
  stack.addEventListener("pointermove", (event) => {
    if (stack.hasPointerCapture(event.pointerId)) follow(event);
  });
}

// The gallery: which clips, in which order.
for (const controls of document.querySelectorAll(".controls")) {
  const gallery = document.getElementById(controls.dataset.gallery);
  const cards = [...gallery.children].map((card) => ({
    card,
    values: JSON.parse(card.dataset.values),
    text: card.querySelector("h3").textContent.toLowerCase() + " " + card.dataset.label.toLowerCase(),
  }));
  const [candidate, order, search, count] = [...controls.querySelectorAll("select, input, output")];
  const apply = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const { card, text } of cards) {
      card.hidden = (candidate.value && card.dataset.candidate !== candidate.value) || !text.includes(wanted);
      shown += !card.hidden;
    }
    count.textContent = `${shown} of ${cards.length}`;
  };
  order.addEventListener("change", () => {
    const [metric, sign] = [order.value.slice(1), order.value[0] === "+" ? 1 : -1];
    const known = ({ values }) => typeof values[metric] === "number";
    cards.sort((a, b) => (known(b) - known(a)) || sign * (a.values[metric] - b.values[metric]) || 0);
    gallery.append(...cards.map(({ card }) => card));
  });
  candidate.addEventListener("change", apply);
  search.addEventListener("input", apply);
  apply();
}

// What is to be copied is selected too: where the clipboard is closed to scripts, the keyboard's copy works.
for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(source);
    const copied = navigator.clipboard ? navigator.clipboard.writeText(source.textContent) : Promise.reject();
    copied.then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Selected"; });
  });
}
