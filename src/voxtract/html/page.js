"use strict";
(() => {
  const root = document.documentElement;
  const SVG = "http://www.w3.org/2000/svg";

  // ---- dark and light: as the system says, until the button is pressed
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const showTheme = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // ---- the slices of the cases
  const source = document.getElementById("data");
  if (!source) return;
  const { classes, views, cases } = JSON.parse(source.textContent);
  const hidden = new Set(); // classes that are switched off
  let wanted = 0; // the view that is shown, where a case has it
  const cards = [...document.querySelectorAll(".card")];

  const draw = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const number = (count) => count.toLocaleString("en");
  const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  const shownOf = (card) => {
    const found = cases[card.dataset.case];
    return found.find((one) => one.view === wanted) ?? found[0];
  };
  /** Boxes of a slice that are not switched off: [class, left, top, right, bottom], the last two inclusive. */
  const boxesOf = (one, at) => {
    const boxes = [];
    for (let i = 0; i < one.boxes[at].length; i += 5) {
      const box = one.boxes[at].slice(i, i + 5);
      if (!hidden.has(box[0])) boxes.push(box);
    }
    return boxes;
  };

  /** Make the drawing of a card for the view that is shown; it opens at the slice with the most annotations. */
  const open = (card) => {
    const one = shownOf(card);
    if (!one) return;
    card.dataset.open = one.view;
    const svg = card.querySelector(".stage svg");
    const [width, height] = one.size;
    const [dx, dy] = one.mm;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width * dx} ${height * dy}`);
    const window_ = draw(
      "svg",
      { width: width * dx, height: height * dy, preserveAspectRatio: "none", class: "window" },
      svg,
    );
    const [w, h] = one.tile;
    if (one.jpeg) {
      draw("image", { href: one.jpeg, width: w, height: h * one.slices.length, preserveAspectRatio: "none" }, window_);
    } else {
      draw("rect", { width: "100%", height: "100%", class: "none" }, svg);
    }
    draw("g", { class: "boxes", transform: `scale(${dx} ${dy})` }, svg);
    const bars = card.querySelector(".bars");
    const most = Math.max(1, ...one.areas);
    bars.replaceChildren();
    bars.setAttribute("viewBox", `0 0 ${Math.max(1, one.slices.length - 1)} 1`);
    one.areas.forEach((area, at) =>
      draw("line", { x1: at, x2: at, y1: 1, y2: area ? 0.8 - 0.8 * Math.sqrt(area / most) : 0.9, class: area ? "on" : "" }, bars),
    );
    const slider = card.querySelector("input");
    slider.max = one.slices.length - 1;
    slider.value = one.areas.indexOf(Math.max(...one.areas));
    show(card);
  };

  /** Bring picture, boxes and words of a card to where its slider stands. */
  const show = (card) => {
    const one = shownOf(card);
    const slider = card.querySelector("input");
    const at = Number(slider.value);
    const [w, h] = one.tile;
    const svg = card.querySelector(".stage svg");
    if (one.jpeg) svg.querySelector(".window").setAttribute("viewBox", `0 ${at * h} ${w} ${h}`);
    const group = svg.querySelector(".boxes");
    group.replaceChildren();
    const boxes = boxesOf(one, at);
    const counts = new Map();
    for (const [kind, left, top, right, bottom] of boxes) {
      const place = { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
      draw("rect", { ...place, class: "halo" }, group);
      const box = draw("rect", { ...place, class: "box" }, group);
      box.style.setProperty("--c", classes[kind].color);
      draw("title", {}, box).textContent = `${classes[kind].name}: ${place.width} × ${place.height} pixels`;
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    card.querySelectorAll(".bars line").forEach((line, i) => line.classList.toggle("here", i === at));
    const said = [`slice ${one.slices[at]} of 0 to ${one.count - 1}`];
    const now = card.querySelector(".now");
    now.textContent = `${views[one.view]} ${one.slices[at]} of 0–${one.count - 1}`;
    for (const [kind, count] of [...counts].sort((a, b) => a[0] - b[0])) {
      const part = document.createElement("span");
      part.className = "of";
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.style.setProperty("--c", classes[kind].color);
      part.append(swatch, `${count} ${classes[kind].name}`);
      now.append(part);
      said.push(`${count} ${classes[kind].name}`);
    }
    if (one.more[at]) {
      const part = document.createElement("span");
      part.textContent = `and ${number(one.more[at])} smaller`;
      now.append(part);
    }
    slider.setAttribute("aria-valuetext", said.join(", "));
    svg.setAttribute("aria-label", `${card.dataset.name}, ${views[one.view]} ${said.join(", ")}`);
  };

  // A card is drawn when it comes near the screen: thousands of pictures are not decoded at once.
  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        open(target);
      }
    },
    { rootMargin: "800px" },
  );
  for (const card of cards) {
    const slider = card.querySelector("input");
    if (!slider) continue;
    slider.addEventListener("input", () => show(card));
    near.observe(card);
  }
  window.addEventListener("beforeprint", () => {
    for (const card of cards) if (card.querySelector("input") && card.dataset.open === undefined) open(card);
  });

  // ---- which cases are shown
  const tools = document.getElementById("tools");
  const find = document.getElementById("find");
  const shown = document.getElementById("shown");
  const choose = () => {
    const text = find.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const kinds = card.dataset.classes ? card.dataset.classes.split(" ").map(Number) : [];
      const fits = !hidden.size || kinds.some((kind) => !hidden.has(kind));
      card.hidden = !(fits && card.dataset.name.toLowerCase().includes(text));
      count += card.hidden ? 0 : 1;
    }
    shown.textContent =
      count === cards.length ? plural(count, "case") : `${number(count)} of ${plural(cards.length, "case")}`;
  };
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", (event) => {
    const { name, value, checked } = event.target;
    const drawn = cards.filter((card) => card.dataset.open !== undefined);
    if (name === "class") {
      hidden[checked ? "delete" : "add"](Number(value));
      drawn.forEach(show);
    } else if (name === "view") {
      wanted = Number(value);
      drawn.filter((card) => Number(card.dataset.open) !== shownOf(card).view).forEach(open);
    }
    choose();
  });

  // A link to a case that is not shown shows all of them again.
  window.addEventListener("hashchange", () => {
    const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!card?.hidden) return;
    tools.reset();
    hidden.clear();
    wanted = 0;
    cards.filter((one) => one.dataset.open !== undefined).forEach(open);
    choose();
    card.scrollIntoView();
  });
})();
