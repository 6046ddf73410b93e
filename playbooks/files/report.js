// Copyright (c) 2026 the vmm.qemu contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the report's page does. What machines say is only ever written as text, never as HTML.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const machines = report.machines;
  const now = Date.parse(report.time);
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  // -- elements ---------------------------------------------------------------------------------------------------------

  // An element with attributes and children: elements and texts. One whose name is on* is a listener.
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== ""));
    return element;
  }
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const muted = (text) => el("span", { class: "muted" }, text);
  const tag = (text, kind) => el("span", { class: `tag ${kind}` }, text);

  // -- words ------------------------------------------------------------------------------------------------------------

  function bytes(count) {
    if (count === null || count === undefined) return "";
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = 0;
    while (count >= 1024 && unit < units.length - 1) (count /= 1024), unit++;
    return `${count >= 100 || Number.isInteger(count) ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
  }
  const amount = (count) => el("span", { class: "amount" }, bytes(count));
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const total = (list, value) => list.reduce((sum, one) => sum + (value(one) || 0), 0);
  function age(time) {
    const minutes = Math.round((now - Date.parse(time)) / 60000);
    if (minutes < 0) return "in the future";
    return minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} d`;
  }
  const BAD = ["io-error", "internal-error", "guest-panicked", "watchdog", "unreachable"];
  const kindOf = (state) =>
    state === "running" ? "good" : BAD.includes(state) ? "bad" : state === "busy" ? "warn" : "quiet";
  function percent(job) {
    return job.done === null ? "" : ` ${job.done} %`;
  }
  const limits = (disk) => Object.entries(disk.limits).map(([name, value]) => {
    const [what, ...more] = name.split("_");
    return [what === "bps" ? `${bytes(value)}/s` : `${value} ${what}`, ...more].join(" ");
  }).join(", ");
  const base = (path) => path.slice(path.lastIndexOf("/") + 1) || path;

  // -- what to look at --------------------------------------------------------------------------------------------------

  const FLAGS = {
    "old backup": ["warn", (vm) => Boolean(vm.backup && vm.backup.old)],
    "differs": ["warn", (vm) => Boolean(vm.drift && vm.drift.count)],
    "needs a restart": ["warn", (vm) => Boolean(vm.drift && vm.drift.restart)],
    "outdated QEMU": ["warn", (vm) => Boolean(vm.outdated)],
    "disk trouble": ["bad", (vm) => (vm.disks || []).some((disk) => !["", "ok"].includes(disk.io))],
    "failed job": ["bad", (vm) => (vm.jobs || []).some((job) => job.error)],
    "job under way": ["info", (vm) => (vm.jobs || []).some((job) => !job.error && job.status !== "concluded")],
    "migrating": ["info", (vm) => Boolean(vm.migration && vm.migration.going)],
    "failed migration": ["bad", (vm) => Boolean(vm.migration && !vm.migration.going)],
  };
  const chosen = { state: new Set(), flag: new Set(), hypervisor: new Set() };
  let words = [];

  for (const vm of machines) {
    vm.flags = Object.keys(FLAGS).filter((name) => FLAGS[name][1](vm));
    const said = [];
    JSON.stringify(vm, (key, value) => (typeof value === "string" ? (said.push(value), value) : value));
    vm.text = said.join("\n").toLowerCase();
  }
  function isShown(vm) {
    return (!chosen.state.size || chosen.state.has(vm.state))
      && (!chosen.hypervisor.size || chosen.hypervisor.has(vm.hypervisor))
      && (!chosen.flag.size || vm.flags.some((flag) => chosen.flag.has(flag)))
      && words.every((word) => vm.text.includes(word));
  }

  // -- the table --------------------------------------------------------------------------------------------------------

  function activity(vm) {
    const jobs = (vm.jobs || []).map((job) =>
      tag(`${job.type}${percent(job)}`, job.error ? "bad" : "info"));
    const move = vm.migration
      ? [tag(vm.migration.going ? `migration${percent(vm.migration)}` : "migration failed", vm.migration.going ? "info" : "bad")] : [];
    return [...move, ...jobs];
  }
  function meter(part, whole) {
    if (!whole) return "";
    const bar = el("span", { class: "meter", title: `${bytes(part)} of ${bytes(whole)} are taken on the host` }, el("span"));
    bar.firstChild.style.width = `${Math.min(100, (100 * part) / whole)}%`;
    return bar;
  }
  const size = (vm) => total(vm.disks || [], (disk) => disk.size);
  const used = (vm) => total(vm.disks || [], (disk) => disk.used);
  function backup(vm) {
    if (!vm.backup) return [];
    if (vm.backup.reason !== undefined) return [muted("unknown")];
    const text = vm.backup.time ? age(vm.backup.time) : "none";
    return [vm.backup.old ? tag(text, "warn") : text];
  }

  const drift = (vm) => (vm.drift ? vm.drift.says : []).map((word, number) =>
    number === 0 && !vm.drift.count && !vm.drift.restart ? muted(word) : tag(word, word === "could not be told" ? "quiet" : "warn"));

  // title, kind, what it is sorted by, cells. All but texts are sorted from the largest on
  const COLUMNS = [
    ["Machine", "text", (vm) => vm.name, (vm) => [
      el("button", { class: "open", "aria-expanded": "false" }, vm.name),
      vm.own_name && vm.own_name !== vm.name ? muted(vm.own_name) : ""]],
    ["Hypervisor", "text", (vm) => vm.hypervisor, (vm) => [vm.hypervisor]],
    ["State", "text", (vm) => vm.state, (vm) => [tag(vm.state, kindOf(vm.state))]],
    ["CPUs", "number", (vm) => vm.cpus, (vm) => vm.cpus === undefined ? [] : [
      String(vm.cpus), vm.most_cpus > vm.cpus ? muted(` of ${vm.most_cpus}`) : ""]],
    ["Memory", "number", (vm) => vm.memory, (vm) => [bytes(vm.memory),
      vm.balloon !== undefined && vm.balloon !== null && vm.balloon < vm.memory ? muted(`guest has ${bytes(vm.balloon)}`) : ""]],
    ["Disks", "number", size, (vm) => vm.disks && vm.disks.length ? [
      vm.disks.length > 1 ? muted(`${vm.disks.length} × `) : "", bytes(size(vm)), meter(used(vm), size(vm))] : []],
    ["NICs", "number", (vm) => vm.nics && vm.nics.length, (vm) => vm.nics && vm.nics.length ? [String(vm.nics.length)] : []],
    ["Under way", "count", (vm) => activity(vm).length, activity],
    ["Backup", "number", (vm) => vm.backup && !vm.backup.reason ? (vm.backup.time ? now - Date.parse(vm.backup.time) : Infinity) : undefined, backup],
    ["Document", "count", (vm) => vm.drift && vm.drift.count !== null ? vm.drift.count + (vm.drift.restart ? 0.5 : 0) : undefined, drift],
    ["QEMU", "text version", (vm) => vm.version, (vm) => [vm.version || "",
      vm.outdated ? tag(vm.installed ? `→ ${vm.installed}` : "outdated", "warn") : ""]],
  ];
  let sorted = { column: 0, down: false };
  const body = el("tbody");
  const lines = machines.map((vm) => ({ vm, line: line(vm), more: null }));

  function line(vm) {
    return el("tr", { class: "vm" }, COLUMNS.map(([, kind, , cells]) => el("td", { class: kind }, cells(vm))));
  }
  function order() {
    const [, kind, key] = COLUMNS[sorted.column];
    const empty = (value) => value === undefined || value === null || value === "";
    lines.sort((one, other) => {
      const [a, b] = [key(one.vm), key(other.vm)];
      if (empty(a) || empty(b)) return empty(a) - empty(b); // always last
      const way = (kind.startsWith("text") ? compare(a, b) : a - b || 0) * (sorted.down ? -1 : 1);
      return way || compare(one.vm.name, other.vm.name);
    });
    body.append(...lines.flatMap(({ line, more }) => (more ? [line, more] : [line])));
    heads.forEach((head, number) => {
      const way = sorted.down ? "descending" : "ascending";
      number === sorted.column ? head.setAttribute("aria-sort", way) : head.removeAttribute("aria-sort");
    });
  }
  const heads = COLUMNS.map(([title, kind], number) =>
    el("th", { class: kind, scope: "col" }, el("button", { onclick: () => {
      sorted = { column: number, down: sorted.column === number ? !sorted.down : !kind.startsWith("text") };
      order();
    } }, title)));

  function toggle(entry, open = entry.line.nextSibling !== entry.more || !entry.more || entry.more.hidden) {
    if (open && !entry.more) {
      entry.more = el("tr", { class: "more" }, el("td", { colspan: COLUMNS.length }, details(entry.vm)));
      entry.line.after(entry.more);
    }
    if (entry.more) entry.more.hidden = !open || entry.line.hidden;
    entry.open = open;
    entry.line.classList.toggle("opened", open);
    entry.line.querySelector(".open").setAttribute("aria-expanded", String(open));
  }
  for (const entry of lines) {
    entry.line.addEventListener("click", () => {
      if (String(getSelection()) === "") toggle(entry);
    });
  }

  function choose() {
    let count = 0;
    for (const entry of lines) {
      entry.line.hidden = !isShown(entry.vm);
      if (entry.more) entry.more.hidden = entry.line.hidden || !entry.open;
      count += !entry.line.hidden;
    }
    shownCount.textContent = count === machines.length ? plural(count, "machine") : `${count} of ${plural(machines.length, "machine")}`;
    nothing.hidden = count > 0;
    for (const button of document.querySelectorAll("button[data-kind]")) {
      button.setAttribute("aria-pressed", String(chosen[button.dataset.kind].has(button.dataset.value)));
    }
  }

  // -- one machine ------------------------------------------------------------------------------------------------------

  function facts(pairs) {
    return el("dl", {}, pairs.filter(([, value]) => value).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }
  function list(title, heads, rows) {
    if (!rows.length) return "";
    return el("section", {}, el("h3", {}, title), el("table", { class: "list" },
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, ...[cell].flat())))))));
  }
  function chain(disk) {
    return el("ol", { class: "chain" }, disk.files.map((file) => el("li", { title: file }, base(file), muted(file.slice(0, -base(file).length).replace(/(.)\/$/, "$1")))));
  }
  function details(vm) {
    const place = [["Socket", vm.socket], ["UUID", /[1-9a-f]/.test(vm.uuid) ? vm.uuid : ""]];
    if (vm.reason !== undefined) {
      return el("div", { class: "details" }, el("div", {}, el("p", { class: "reason" }, vm.reason), facts([...place, ["Backup", told(vm)]])));
    }
    const memory = vm.plugged ? `${bytes(vm.memory)}, ${bytes(vm.plugged)} of it plugged in` : bytes(vm.memory);
    const balloon = vm.balloon === null ? "" : `${bytes(vm.balloon)} (balloon)`;
    const qemu = `${vm.version}${vm.package ? ` (${vm.package})` : ""}`;
    return el("div", { class: "details" },
      el("div", {},
        facts([["Machine type", `${vm.machine}, ${vm.arch}${vm.kvm ? ", KVM" : ", emulated"}`], ["QEMU", qemu], ["Program", vm.binary],
          ["Installed", vm.outdated ? `${vm.installed || "another build"}: the machine runs an older one` : ""],
          ["Memory", memory], ["The guest has", balloon], ["Backup", told(vm)], ["Document", ofDocument(vm)], ...place]),
        list("Differs from its document", ["What", "Option", "Wanted", "There"], (vm.drift ? vm.drift.lines : []).map((one) => [
          one.what, one.option, one.wanted, one.there])),
        list("Disks", ["Disk", "Size", "Taken", "Images, from the top one down", "Limits"], vm.disks.map((disk) => [
          [disk.id, muted([disk.driver, disk.format, disk.read_only ? "read-only" : ""].filter(Boolean).join(", ")),
            ["", "ok"].includes(disk.io) ? "" : tag(disk.io, "bad")],
          amount(disk.size), amount(disk.used), chain(disk), limits(disk) || muted("none")])),
        list("Network", ["Card", "MAC", "Backend", "Settings"], vm.nics.map((nic) => [
          [nic.id || muted("none"), muted(nic.driver)], nic.mac, [nic.netdev, muted(nic.type)], nic.settings])),
        list("Jobs", ["Job", "State", "Done", "Speed limit", "Error"], vm.jobs.map((job) => [
          [job.id, muted(job.type)], job.status, percent(job), job.speed ? `${bytes(job.speed)}/s` : muted("none"), job.error])),
        vm.migration ? list("Migration", ["State", "Done", "Error"], [[vm.migration.status, percent(vm.migration), vm.migration.error]]) : ""),
      el("figure", {}, el("figcaption", {}, "Buses and devices"), picture(vm)));
  }
  const ofDocument = (vm) => (vm.drift ? [vm.drift.says.join(", "), vm.drift.reason].filter(Boolean).join(": ") : "");
  function told(vm) {
    if (!vm.backup) return "";
    if (vm.backup.reason !== undefined) return `unknown: ${vm.backup.reason}`;
    return vm.backup.time ? `${vm.backup.level}, ${vm.backup.time}${vm.backup.old ? ": old" : ""}` : "none";
  }

  // -- the picture ------------------------------------------------------------------------------------------------------

  const [WIDE, HIGH, LOW, GAP, BUS, HEAD] = [160, 32, 19, 6, 24, 18];
  const KINDS = [
    ["disk", /blk|scsi-(hd|cd|block|generic)|^ide-(hd|cd)|^nvme|usb-storage|floppy/],
    ["nic", /net|e1000|rtl8139|pcnet|vmxnet/i],
    ["port", /port|bridge|pxb/i],
    ["memory", /dimm|virtio-mem|virtio-pmem/],
    ["control", /scsi|serial|xhci|ehci|uhci|ahci|sata|usb-hub|ide|iommu/i],
    ["display", /vga|gpu|qxl|display|ramfb/i],
  ];
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // One that nobody has named has a line of its own at most.
  const height = (one) => (one.id ? HIGH : LOW);
  function device(one, x, y) {
    const name = one.free ? plural(one.free.length, "free port") : one.id || one.driver || "device";
    const under = one.free ? one.free.join(", ") : [one.id ? one.driver : "", one.addr].filter(Boolean).join("  ");
    const kind = one.free ? "free" : (KINDS.find(([, pattern]) => pattern.test(one.driver)) || ["other"])[0];
    return svg("g", { class: `device ${kind}${one.id || one.free ? "" : " builtin"}` },
      svg("title", {}, [name, under, one.note].filter(Boolean).join("\n")),
      svg("rect", { x, y, width: WIDE, height: height(one), rx: 4 }),
      svg("rect", { class: "edge", x, y: y + 4, width: 3, height: height(one) - 8 }),
      svg("text", { class: "name", x: x + 10, y: y + 13 }, cut(name, one.id ? 23 : 20)),
      one.id ? svg("text", { class: "under", x: x + 10, y: y + 26 }, cut(under, 28))
        : svg("text", { class: "under end", x: x + WIDE - 6, y: y + 13 }, one.free ? "" : one.addr));
  }
  // Draw a bus, at y and below; its devices stand right of it. Gives the y below it all, and the middle of its first device.
  function drawBus(into, bus, x, y, owner) {
    if (bus.name !== owner) {
      into.append(svg("text", { class: "bus", x, y: y + 12 }, bus.name || "on the board"));
      y += HEAD;
    }
    const middles = [];
    let right = x;
    for (const one of bus.devices) {
      const middle = y + height(one) / 2;
      middles.push(middle);
      into.append(svg("path", { class: "wire", d: `M${x + 8} ${middle}H${x + BUS}` }), device(one, x + BUS, y));
      right = Math.max(right, x + BUS + WIDE);
      let below = y;
      for (const next of one.buses) {
        const from = x + BUS + WIDE;
        const drawn = drawBus(into, next, from + 14, below, one.id);
        into.append(svg("path", { class: "wire", d: `M${from} ${middle}H${from + 8}V${drawn.first}H${from + 22}` }));
        below = drawn.y;
        right = Math.max(right, drawn.right);
      }
      y = Math.max(y + height(one) + GAP, below);
    }
    if (middles.length > 1) into.append(svg("path", { class: "line", d: `M${x + 8} ${middles[0]}V${middles[middles.length - 1]}` }));
    return { y: y + (bus.name === owner ? 0 : 2), right, first: middles[0] ?? y };
  }
  function picture(vm) {
    const all = svg("g");
    let [y, right] = [0, 100];
    for (const bus of vm.buses) {
      const drawn = drawBus(all, bus, 0, y, null);
      y = drawn.y + 8;
      right = Math.max(right, drawn.right);
    }
    return svg("svg", { viewBox: `-1 -1 ${right + 2} ${y + 2}`, width: right + 2, height: y + 2, role: "img",
      "aria-label": `Buses and devices of ${vm.name}` }, all);
  }

  // -- the page ---------------------------------------------------------------------------------------------------------

  function chip(kind, value, count, look) {
    return el("button", { class: `chip ${look}`, "data-kind": kind, "data-value": value, "aria-pressed": "false", onclick: () => {
      chosen[kind].has(value) ? chosen[kind].delete(value) : chosen[kind].add(value);
      choose();
    } }, el("b", {}, String(count)), ` ${value}`);
  }
  function counts(values) {
    const found = new Map();
    for (const value of values) found.set(value, (found.get(value) || 0) + 1);
    return [...found].sort((one, other) => other[1] - one[1] || compare(one[0], other[0]));
  }
  function hypervisor(name) {
    const here = machines.filter((vm) => vm.hypervisor === name);
    const states = counts(here.map((vm) => vm.state));
    const bar = el("span", { class: "bar" }, states.map(([state, count]) => {
      const part = el("span", { class: kindOf(state), title: `${count} ${state}` });
      part.style.flexGrow = String(count);
      return part;
    }));
    return el("tr", {}, el("td", {}, el("button", { class: "link", "data-kind": "hypervisor", "data-value": name, "aria-pressed": "false",
      onclick: () => {
        chosen.hypervisor.has(name) ? chosen.hypervisor.delete(name) : chosen.hypervisor.add(name);
        choose();
      } }, name)), el("td", {}, bar), el("td", {}, states.map(([state, count]) => `${count} ${state}`).join(", ")),
    el("td", { class: "number" }, `${total(here, (vm) => vm.cpus)}`), el("td", { class: "number" }, bytes(total(here, (vm) => vm.memory))),
    el("td", { class: "number" }, bytes(total(here, size))));
  }

  const shownCount = el("output", {});
  const nothing = el("p", { class: "nothing", hidden: true }, "No machine is like that.");
  const search = el("input", { type: "search", placeholder: "Search: name, disk, MAC, file, version …", "aria-label": "Search", oninput: () => {
    words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    choose();
  } });
  const all = (open) => lines.filter((entry) => !entry.line.hidden).forEach((entry) => toggle(entry, open));
  const names = [...new Set(machines.map((vm) => vm.hypervisor))].sort(compare);
  const flags = counts(machines.flatMap((vm) => vm.flags));

  document.body.append(
    el("header", {}, el("h1", {}, report.title),
      el("p", { class: "muted" }, `as of ${report.time.replace("T", " ").replace("Z", " UTC")}`)),
    el("p", { class: "figures" }, [
      plural(machines.length, "machine"), plural(names.length, "hypervisor"), plural(total(machines, (vm) => vm.cpus), "CPU"),
      `${bytes(total(machines, (vm) => vm.memory))} memory`, `${bytes(total(machines, size))} disks`, `${bytes(total(machines, used))} taken`,
    ].map((figure) => figure.match(/(.*) (.*)/)).map(([, figure, word]) => el("span", {}, el("b", {}, figure), ` ${word}`))),
    el("details", { class: "hypervisors", open: names.length <= 12 }, el("summary", {}, "Hypervisors"),
      el("table", { class: "list" }, el("thead", {}, el("tr", {}, ["Hypervisor", "", "Machines", "CPUs", "Memory", "Disks"].map((head, number) =>
        el("th", { scope: "col", class: number > 2 ? "number" : false }, head)))), el("tbody", {}, names.map(hypervisor)))),
    el("nav", { "aria-label": "Filter" },
      el("div", { class: "chips" }, counts(machines.map((vm) => vm.state)).map(([state, count]) => chip("state", state, count, kindOf(state))),
        flags.length ? el("span", { class: "gap" }) : "", flags.map(([flag, count]) => chip("flag", flag, count, FLAGS[flag][0]))),
      el("div", { class: "find" }, search, shownCount,
        el("button", { class: "plain", onclick: () => all(true) }, "Open all"),
        el("button", { class: "plain", onclick: () => all(false) }, "Close all"))),
    el("table", { class: "machines" }, el("thead", {}, el("tr", {}, heads)), body),
    nothing,
  );
  order();
  choose();
})();
