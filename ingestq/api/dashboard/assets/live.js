// Keeps the page up to date: replaces parts of it with what the server renders.
"use strict";

(() => {
  const RETRY_MS = 5000;
  const connection = document.getElementById("connection");
  const regions = new Map(
    [...document.querySelectorAll("[data-region]")].map((region) => [region.dataset.region, region]),
  );
  const held = new Map(); // updates of regions that are in use
  let pressed = false;
  let source = null;
  let retry = null;

  const say = (state, text) => {
    if (connection.dataset.state !== state) {
      connection.dataset.state = state;
      connection.textContent = text;
    }
  };

  // Replacing a button between press and release loses the click; replacing text, the selection.
  const isInUse = (region) => {
    const selection = document.getSelection();
    return (
      (pressed && region.matches(":hover")) ||
      (!selection.isCollapsed && selection.containsNode(region, true))
    );
  };

  const replace = (region, html) => {
    const focused = region.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...region.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
    region.innerHTML = html; // rendered by the server, which escapes what it fills in
    [...region.querySelectorAll(".scroll")].forEach((part, i) => {
      part.scrollLeft = scrolled[i] ?? 0;
    });
    if (focused !== null && focused !== region) {
      const again = focused.id === "" ? null : document.getElementById(focused.id);
      (again ?? region).focus({ preventScroll: true });
    }
  };

  const show = (name, html) => {
    const region = regions.get(name);
    if (region === undefined) {
      return;
    }
    if (isInUse(region)) {
      held.set(name, html);
    } else {
      held.delete(name);
      replace(region, html);
    }
  };

  const showHeld = () => {
    for (const [name, html] of [...held]) {
      show(name, html);
    }
  };

  const disconnect = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
  };

  const connect = () => {
    disconnect();
    source = new EventSource(connection.dataset.events);
    source.addEventListener("open", () => say("live", "Live"));
    source.addEventListener("error", () => {
      say("away", "Disconnected, reconnecting");
      if (source.readyState === EventSource.CLOSED) {
        retry = setTimeout(connect, RETRY_MS); // the response was not a stream
      }
    });
    for (const name of regions.keys()) {
      source.addEventListener(name, (event) => show(name, event.data));
    }
  };

  // The result of a form is shown once, not after each reload.
  if (new URLSearchParams(location.search).has(connection.dataset.once)) {
    history.replaceState(null, "", location.pathname + location.hash);
  }

  document.addEventListener("pointerdown", () => {
    pressed = true;
  });
  for (const ended of ["pointerup", "pointercancel"]) {
    document.addEventListener(ended, () => {
      pressed = false;
      setTimeout(showHeld); // after the click event
    });
  }
  document.addEventListener("selectionchange", showHeld);
  // Browsers limit connections per server: hidden pages give theirs up.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => event.persisted && connect());
  connect();
})();
