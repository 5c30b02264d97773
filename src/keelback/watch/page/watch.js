// Takes the page anew every two seconds and puts its parts in place of those that have changed.
// What comes from the server is parsed into a document of its own, in which no script runs.
"use strict";
const wait = 2000;

function key(part) {
  return part.tagName + (part.querySelector("h2")?.id ?? "");
}

function take(fresh) {
  const main = document.querySelector("main");
  const old = new Map([...main.children].map((part) => [key(part), part]));
  let before = null;
  for (const part of [...fresh.querySelector("main").children]) {
    const there = old.get(key(part));
    old.delete(key(part));
    let here = there;
    if (!there) {
      here = document.importNode(part, true);
    } else if (there.innerHTML !== part.innerHTML) {
      change(there, part);
    }
    const next = before ? before.nextElementSibling : main.firstElementChild;
    if (next !== here) main.insertBefore(here, next);
    before = here;
  }
  old.forEach((part) => part.remove());
  document.title = fresh.title;
}

// Parts that hold focus or are scrolled stay; only what is inside them is replaced.
function change(there, part) {
  const inner = [...there.querySelectorAll(".scroll, [role=status]")];
  const given = [...part.querySelectorAll(".scroll, [role=status]")];
  if (inner.length !== given.length) {
    there.replaceChildren(...part.cloneNode(true).childNodes);
    return;
  }
  const kept = inner.map((box) => {
    const focused = document.activeElement === box;
    return [box, focused, box.scrollLeft, box.scrollTop];
  });
  given.forEach((box, i) => inner[i].replaceChildren(...box.cloneNode(true).childNodes));
  given.forEach((box, i) => box.replaceWith(inner[i]));
  there.replaceChildren(...part.childNodes);
  kept.forEach(([box, focused, left, top]) => {
    box.scrollTo(left, top);
    if (focused) box.focus({ preventScroll: true });
  });
}

async function again() {
  const lost = () => document.getElementById("lost");
  try {
    const answer = await fetch("/", { cache: "no-store" });
    const text = await answer.text();
    if (answer.ok) take(new DOMParser().parseFromString(text, "text/html"));
    lost().textContent = answer.ok ? "" : `What is shown is not new: ${text}`;
  } catch {
    lost().textContent = "What is shown is not new: keelback watch does not answer.";
  }
  setTimeout(again, wait);
}

setTimeout(again, wait);
