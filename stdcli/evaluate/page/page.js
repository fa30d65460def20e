"use strict";

// Each picture is in the file once; later places take it from the first.
const pictures = new Map();
for (const image of document.querySelectorAll("img[data-key]")) pictures.set(image.dataset.key, image.src);
for (const image of document.querySelectorAll("img[data-copy]")) image.src = pictures.get(image.dataset.copy);
for (const image of document.querySelectorAll("img[data-name]")) pictures.set(image.dataset.name, image.src);

enlarge(document.querySelector(".viewer"));
const slider = document.querySelector(".slider");
if (slider) compare(slider);

function enlarge(viewer) {
  let shown = null;
  const image = viewer.querySelector("img");
  const link = viewer.querySelector("a");

  function show(shot) {
    shown = shot;
    const source = shot.querySelector("img");
    image.src = source.src;
    image.alt = source.alt;
    viewer.querySelector("strong").textContent = shot.dataset.text;
    viewer.querySelector(".facts").textContent = shot.dataset.facts ?? "";
    link.hidden = !shot.dataset.file;
    if (shot.dataset.file) link.href = shot.dataset.file;
    if (!viewer.open) viewer.showModal();
  }

  function turn(by) {
    const row = [...shown.closest("tr").querySelectorAll(".shot")];
    show(row[(row.indexOf(shown) + by + row.length) % row.length]);
  }

  for (const shot of document.querySelectorAll(".shot")) shot.addEventListener("click", () => show(shot));
  viewer.querySelector(".back").addEventListener("click", () => turn(-1));
  viewer.querySelector(".on").addEventListener("click", () => turn(1));
  viewer.addEventListener("click", (event) => {
    if (!event.target.closest(".turn, a")) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  viewer.addEventListener("close", () => shown?.focus());
}

function compare(slider) {
  const stage = slider.querySelector(".stage");
  const range = stage.querySelector("input");
  const pick = (name) => slider.querySelector(`select[name=${name}]`);

  function place() {
    stage.style.setProperty("--at", `${range.value}%`);
  }

  function put(side, image) {
    const [owner, content, style] = [pick(side).value, pick("content").value, pick("style").value];
    const key = owner === "content" ? `content/${content}` : `${owner}/${content}/${style}`;
    const source = pictures.get(key);
    if (source) image.src = source;
    stage.querySelector(`.side.${side}`).textContent = pick(side).selectedOptions[0].textContent;
    return Boolean(source);
  }

  function remind(name, key) {
    const image = slider.querySelector(`.beside .${name}`);
    image.parentElement.hidden = !pictures.has(key);
    if (pictures.has(key)) image.src = pictures.get(key);
  }

  function load() {
    remind("style", `style/${pick("style").value}`);
    remind("source", `content/${pick("content").value}`);
    const found = [put("left", stage.querySelector(".over")), put("right", stage.querySelector(".under"))];
    stage.classList.toggle("empty", found.includes(false));
    stage.querySelector(".gap").hidden = !found.includes(false);
  }

  range.addEventListener("input", place);
  for (const select of slider.querySelectorAll("select")) select.addEventListener("change", load);
  for (const button of document.querySelectorAll(".compare")) {
    button.addEventListener("click", () => {
      pick("content").value = button.dataset.content;
      pick("style").value = button.dataset.style;
      load();
      slider.scrollIntoView({ block: "center" });
    });
  }
  place();
  load();
}
