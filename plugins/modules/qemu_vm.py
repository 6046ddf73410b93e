# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_vm
short_description: A whole QEMU virtual machine on its host, from nothing to running, in one task
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Makes the virtual machine's directories, images, firmware variables, seed for cloud-init and taps, starts QEMU as a unit of systemd or a
    daemon, plugs in what it has, and lets the guest run. Run again with other options, the running machine becomes what they say.
  - It is one plan, done whole or taken back. Of a virtual machine that was not there nothing is left, and one that was there goes on as it
    was. A guest that has run is never ended by that, since it may have written to its disks.
  - What needs a restart is told in RV(restart_required), and done only with O(restart_allowed).
  - The role C(vmm.qemu.vm) is this module, with its arguments checked.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.unused
options:
  machines:
    description:
      - Many virtual machines in one task, by their names. The values are dictionaries of this module's own options, or empty.
      - Options outside of O(machines) hold for each entry that does not set them itself.
      - What is wrong with the options of any of them is an error before anything is done to one.
      - Eight at a time are worked on side by side, each with its own plan and undo. O(timeout) is that of each one, so that all
        of them together may take longer.
      - When some fail, the others are finished all the same. Then the task fails, with the names of the first few in RV(msg) and
        all of them in RV(machines).
    type: dict
  name:
    description:
      - The virtual machine's name. At most 64 letters, digits, and after the first also C(_), C(.) and C(-).
      - Required without O(machines). Each of these has its key for its name.
    type: str
  state:
    description:
      - V(running) makes it and starts it. V(stopped) shuts the guest down, and ends QEMU. A guest that is paused can't shut down, which is
        an error, unless O(shutdown_timeout=0).
      - V(absent) ends it and removes its sockets, logs, unit and taps. Its data stays unless O(remove_data).
    type: str
    choices: [running, stopped, absent]
    default: running
  directory:
    description:
      - The directory that is the virtual machine's alone. Its name must be O(name), and it is not a symbolic link. A long path makes long sockets,
        and these have 107 bytes at most.
      - Where O(user) is not the user who runs the task, it belongs to root, and O(user) can only pass through it. Only the images
        and C(run/sockets) belong to that user.
      - C(disk.qcow2) and C(uefi-vars.fd) are its data, C(vm.json) is what it had last, and C(saved) its guest if that is saved.
      - In C(run) are the monitor of this collection (C(qmp)), one for the event source (C(events)), one for people (C(monitor)), the guest
        agent's socket (C(agent)), the console (C(console), with what it said in C(console.log)), and QEMU's log (C(qemu.log)).
      - A virtual machine that runs without C(events) gets it while it runs, if its QEMU is 11.1 or later. Otherwise it gets it at
        its next start.
      - If not set, C(/var/lib/vmm-qemu/NAME).
    type: path
  user:
    description:
      - The user that QEMU runs as, and that the files belong to. The task must run as root then.
      - With an empty string it is the user who runs the task.
    type: str
    default: vmm-qemu
  binary:
    description:
      - The QEMU to run. If empty, the one of the host's architecture.
    type: path
  service:
    description:
      - What starts QEMU. V(systemd) is a unit C(vmm-qemu-NAME.service). With V(daemon) QEMU puts itself into the background.
      - V(auto) is V(systemd) on hosts that run it, if the task runs as root.
    type: str
    choices: [auto, systemd, daemon]
    default: auto
  autostart:
    description:
      - Whether systemd starts it when the host starts, and again when QEMU crashes, with all that it had when this module last ran.
      - Without systemd, RV(start_command) is what any other supervisor can run for that.
    type: bool
    default: false
  restart_allowed:
    description:
      - Whether a running guest may be shut down and started again, when what has changed takes that.
    type: bool
    default: false
  start_timeout:
    description:
      - Seconds that QEMU has to start.
    type: int
    default: 60
  plug_timeout:
    description:
      - Seconds for plugging and unplugging, including the wait until the guest gives something back.
    type: int
    default: 60
  shutdown_timeout:
    description:
      - Seconds that the guest has to shut down, before QEMU is ended all the same.
      - V(0) ends it at once, be it running or paused, which to the guest is a power failure.
    type: int
    default: 60
  on_host_shutdown:
    description:
      - What becomes of the guest when systemd stops it, as when the host goes down or with C(systemctl stop).
      - V(shutdown) presses its power button.
      - V(save) saves it to the file C(saved) in O(directory), and it goes on from there when it is started the next time, by systemd or
        by this module, as M(vmm.qemu.qemu_save) does. If that fails, its power button is pressed.
      - If it can't go on when systemd starts it, for example since a disk has changed meanwhile, it is started anew, as after a
        power failure. The journal has the reason. What was saved is then never loaded, and is kept as C(saved.old). This module
        fails instead.
      - With O(state=stopped) this module shuts the guest down in any case. A guest that is saved stays so.
    type: str
    choices: [shutdown, save]
    default: shutdown
  save_timeout:
    description: Seconds that saving the guest has with O(on_host_shutdown=save), and going on with it.
    type: int
    default: 300
  power:
    description:
      - Whether the guest of a running virtual machine runs or is paused.
    type: str
    choices: [running, paused]
    default: running
  remove_data:
    description:
      - With O(state=absent), remove all of O(directory), the disk included.
    type: bool
    default: false
  machine:
    description:
      - The machine type. One with a version (V(pc-q35-7.2)) stays the same when QEMU is upgraded, and can be migrated to a newer QEMU.
      - One without a version (V(q35)) is the newest that its QEMU has when it starts, and stays that for as long as its guest runs.
      - If empty, that which is usual for the architecture. V(q35) for x86, V(virt) for aarch64 and riscv64, V(pseries) for ppc64,
        V(s390-ccw-virtio) for s390x. O(binary) tells the architecture by its name (C(qemu-system-aarch64)), else it is the host's.
    type: str
  machine_options:
    description:
      - More options of O(machine), as in QEMU's C(-machine).
    type: dict
    default: {}
  accel:
    description:
      - The accelerator. Of several, with colons between them, QEMU takes the first that works.
    type: str
    default: kvm:tcg
  cpu:
    description:
      - The CPU model. V(max) has all that the host has, so that the guest can migrate only to a host that has as much.
      - If empty, QEMU's own default.
    type: str
    default: max
  vcpus:
    description:
      - How many virtual CPUs it has.
    type: int
    default: 1
  vcpus_max:
    description:
      - How many virtual CPUs it can ever have. Up to this number, they are plugged in and out while the guest runs.
      - With V(0) it has O(vcpus), and another number of them takes a restart.
    type: int
    default: 0
  memory:
    description:
      - The memory that it starts with.
    type: str
    default: 1G
  memory_max:
    description:
      - How much memory it can ever have. Needed for O(memory_modules).
    type: str
  memory_slots:
    description:
      - How many memory modules it can have.
    type: int
    default: 8
  root_ports:
    description:
      - How many PCIe root ports it has, C(rp0), C(rp1) and so on. Each takes one device that is plugged in.
      - V(pseries), V(s390-ccw-virtio) and V(microvm) have none, whatever this says. Devices of the first two are plugged in without a bus.
    type: int
    default: 8
  firmware:
    description:
      - V(uefi) is OVMF or what the host's packages have for another architecture (C(/usr/share/qemu/firmware)), without Secure Boot and
        with variables of the virtual machine's own.
      - V(bios) is what QEMU brings along for the machine. For V(virt) of aarch64 that is nothing, so that it takes O(kernel).
      - V(auto) is V(uefi) for V(virt) of aarch64, and V(bios) for all others.
    type: str
    choices: [auto, bios, uefi]
    default: auto
  uefi_code:
    description:
      - The firmware. If empty, looked for where distributions have it.
    type: path
  uefi_vars:
    description:
      - The variables that a new virtual machine begins with. With O(uefi_code) only, and needed then.
    type: path
  kernel:
    description:
      - A kernel that QEMU boots itself, on the managed host.
    type: path
  initrd:
    description:
      - The initramfs of O(kernel).
    type: path
  append:
    description:
      - The command line of O(kernel).
    type: str
  monitor_mode:
    description:
      - What the monitor for people speaks. V(control) is QMP, V(readline) the one that is typed.
    type: str
    choices: [control, readline]
    default: control
  vnc:
    description:
      - A VNC display, as QEMU's C(-vnc) has it, with a graphics card. For example V(unix:/run/vm1.vnc).
      - Whoever reaches it can use the guest's keyboard. If empty, there is none.
    type: str
  arguments:
    description:
      - More of QEMU's options, as O(vmm.qemu.qemu_instance#module:arguments) has them in a dictionary. Lists add to those of this module.
      - No secrets, since every user of the host can read a process's arguments.
    type: dict
    default: {}
  incoming:
    description:
      - Start it as one that waits for a migration. The role C(vmm.qemu.migrate) does.
    type: bool
    default: false
  copied_disks:
    description:
      - The disks whose contents come along with the guest, as RV(vmm.qemu.qemu_info#module:vm.images) of the source has them, by the device's id. The
        role C(vmm.qemu.migrate) gives them. With O(incoming) their images are made, of the same size and with nothing in them.
      - One that is there already is refused, unless an earlier run has made it for this.
    type: dict
    default: {}
  copied_chain:
    description:
      - Of a disk with a backing file at the source, V(flatten) makes one without. V(keep) makes one whose backing file is O(image),
        which is fetched for it.
    type: str
    choices: [flatten, keep]
    default: flatten
  disk:
    description:
      - Its disk, a qcow2 image. If not set, C(disk.qcow2) in O(directory). To be migrated it must be where both hosts see it.
    type: path
  image:
    description:
      - The backing file of a new disk, as a URL or as an absolute path on the managed host. The disk has what the guest writes, and
        the image stays as it is.
      - One from a URL is fetched once, by M(ansible.builtin.get_url), and kept in O(image_directory) for all virtual machines that name the
        same URL and O(image_checksum). With C(async) it has to be there already.
        It is only read for a disk that is not there yet.
    type: str
  image_checksum:
    description:
      - The checksum of O(image), as V(sha256:HEX). It is checked before a disk is made. For an image from a URL it can be that of a
        list of checksums (V(sha256:https://images.example.org/SHA256SUMS)), which is looked at when the image is fetched.
      - Where a new image is published under an old URL, new virtual machines have it when this changes.
    type: str
  image_format:
    description:
      - The format of O(image). It is never guessed, since a raw image can look like another.
    type: str
    default: qcow2
  image_directory:
    description:
      - Where images from URLs are kept. If not set, C(.images) beside O(directory).
    type: path
  disk_size:
    description:
      - The size of its disk, which grows to it, also while the guest runs. A smaller one is an error.
      - Without it the disk is as large as O(image). With neither it has no disk.
    type: str
  disk_options:
    description:
      - Options of the qcow2 format for a new disk, as O(vmm.qemu.qemu_image#module:options).
    type: dict
    default: {}
  user_data:
    description:
      - cloud-init's user data, as a dictionary (its C(#cloud-config)) or as text. With this or O(network_config) the virtual machine has
        a NoCloud seed.
      - cloud-init reads it once for each C(instance-id). A guest that has read it has the new one only with another C(instance-id) in O(meta_data),
        and a restart.
    type: raw
  meta_data:
    description:
      - cloud-init's meta data. C(instance-id) and C(local-hostname) are O(name) unless it has them.
      - Another C(instance-id) makes cloud-init do all again that it does for a new machine, after a restart.
    type: dict
    default: {}
  network_config:
    description:
      - cloud-init's network configuration, as a dictionary or as text.
    type: raw
  taps:
    description:
      - Tap interfaces on the host, made for O(user) before and removed after the virtual machine, to be used in O(nics).
      - A tap that was there before is used, and stays. An interface of another kind is an error.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The interface's name.
        type: str
        required: true
      bridge:
        description: A bridge that it is put on. It must be there.
        type: str
  objects:
    description:
      - Objects, as O(vmm.qemu.qemu_machine#module:objects).
    type: list
    elements: dict
    default: []
  chardevs:
    description:
      - Character devices, as O(vmm.qemu.qemu_machine#module:chardevs).
    type: list
    elements: dict
    default: []
  netdevs:
    description:
      - Network backends, as O(vmm.qemu.qemu_machine#module:netdevs).
    type: list
    elements: dict
    default: []
  blockdevs:
    description:
      - Block nodes, as O(vmm.qemu.qemu_machine#module:blockdevs).
    type: list
    elements: dict
    default: []
  memory_modules:
    description:
      - Memory modules, as O(vmm.qemu.qemu_machine#module:memory).
    type: list
    elements: dict
    default: []
  disks:
    description:
      - Disks, as O(vmm.qemu.qemu_machine#module:disks).
      - The image of one that has a C(size) is made if it is not there.
    type: list
    elements: dict
    default: []
  nics:
    description:
      - NICs, as O(vmm.qemu.qemu_machine#module:nics).
    type: list
    elements: dict
    default: []
  devices:
    description:
      - Any other devices, as O(vmm.qemu.qemu_machine#module:devices).
    type: list
    elements: dict
    default: []
  balloon:
    description:
      - How much memory the guest can use, as O(vmm.qemu.qemu_balloon#module:size), such as V(512M). A number without a unit is
        bytes, where in O(memory) it is MiB. Less than 64 MiB is refused.
      - Only a guest that runs can follow, so it is set by a run with O(power=running) and without O(incoming).
    type: str
  purge:
    description:
      - Whether to unplug what these lists do not name, as O(vmm.qemu.qemu_machine#module:purge).
    type: bool
    default: false
  recreate:
    description:
      - Whether to unplug and plug again what differs and can't change, as O(vmm.qemu.qemu_machine#module:recreate).
    type: bool
    default: false
  upgradable:
    description:
      - Whether another QEMU can take over its memory as it is, which O(upgrade=cpr) needs. The memory is then a shared memfd.
      - Needs QEMU 10.0. For a virtual machine that runs, a change needs a restart.
    type: bool
    default: false
  upgrade:
    description:
      - With O(state=running), move the guest from the QEMU that runs to the one that is installed (O(binary)), on the same host and without a
        restart. Nothing else of the virtual machine changes, whatever the other options say. One that runs on that QEMU already is fine, and
        so is one that does not run.
      - V(cpr) hands the guest's memory over as it is, which takes a moment. It needs QEMU 10.0 on both sides and O(upgradable).
      - V(migrate) is a migration from one process to another, which takes the guest's memory a second time while it goes on.
      - V(auto) is V(cpr) where it can be, and else V(migrate).
      - The machine type stays the one that it has, with its version. What is plugged in is plugged in at the new QEMU. Sockets, pidfile,
        and unit are the same afterwards.
      - It is refused for what can't move, by name, and before anything is done. When it fails later the guest stays where it was. A task that
        was killed leaves that to the next one, which finishes it or takes it back.
    type: str
    choices: [auto, cpr, migrate]
  timeout:
    description: Seconds for all of the task. If not set, it follows from the other timeouts, with ten minutes for images.
    type: float
  variables_prefix:
    description:
      - Take each option that the task does not give from the variable whose name is this prefix and the option's name, if there is one. With
        V(vm_), O(memory) is the variable C(vm_memory), as for the role C(vmm.qemu.vm). An option in C(module_defaults) counts as given.
      - If there is no such variable for any option, the task fails.
      - O(machines), O(timeout), O(upgrade), O(copied_disks) and O(copied_chain) are not taken from variables.
      - A role can set O(state), O(remove_data), O(upgrade), O(copied_disks) and O(copied_chain) in variables with two underscores before the
        prefix, such as C(__vm_state). They count before the others, unless they are null. The roles C(vmm.qemu.migrate)
        and C(vmm.qemu.upgrade) do that.
    type: str
notes:
  - What the virtual machine has is kept in C(vm.json) in O(directory), where only root can read it. There is no secret in it, so that a secret
    object of O(objects) has to be given as a file.
  - An image that was made for it and is missing later is an error, and not made anew, since its storage may not be mounted.
    O(state=absent) forgets it.
  - At each run and start the console's log is cut to its last part when it has grown beyond 16 MiB.
  - What starts it with the host is a copy of this collection's code, which is kept in C(.code) beside O(directory) and which only root can
    write.
seealso:
  - module: vmm.qemu.qemu_machine
  - module: vmm.qemu.qemu_instance
  - ref: ansible_collections.vmm.qemu.docsite.provisioning
    description: Guide to making virtual machines from nothing.
"""

EXAMPLES = r"""
- name: A virtual machine
  vmm.qemu.qemu_vm:
    name: web1
    memory: 2G
    vcpus: 2
    vcpus_max: 8
    image: /srv/images/debian-12-genericcloud-amd64.qcow2
    disk_size: 20G
    user_data:
      users:
        - {name: admin, sudo: "ALL=(ALL) NOPASSWD:ALL", ssh_authorized_keys: ["ssh-ed25519 AAAA... me"]}
    taps:
      - {name: web1-0, bridge: br0}
    nics:
      - {id: net0, netdev: {type: tap, ifname: web1-0, script: "no", downscript: "no"}, mac: "52:54:00:00:00:01", bus: rp0}
    disks:
      - {id: data, filename: /var/lib/vmm-qemu/web1/data.qcow2, format: qcow2, size: 100G, bus: rp1}

- name: Three of a kind, of which one is larger
  vmm.qemu.qemu_vm:
    image: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    image_checksum: sha512:https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS
    memory: 1G
    machines:
      web1: {memory: 4G}
      web2:
      web3:

- name: Each host of the inventory is a virtual machine, and its variables (vm_memory, vm_disks) say what it has
  vmm.qemu.qemu_vm:
    name: "{{ inventory_hostname }}"
    variables_prefix: vm_
  delegate_to: hypervisor1

- name: Its guest moves to the QEMU that is installed by now
  vmm.qemu.qemu_vm:
    name: web1
    upgrade: auto

- name: It is shut down, and goes, but for its data
  vmm.qemu.qemu_vm:
    name: web1
    state: absent
"""

RETURN = r"""
machines:
  description:
    - What came of each of O(machines), by its name, with the keys that the result of a task for it alone has.
    - One that failed has C(failed) and C(msg).
    - Beside it the task's own result has only C(changed), RV(msg), the warnings and the diff.
  returned: with O(machines), unless their options are wrong
  type: dict
  sample:
    web1: {changed: false, commands: [], restart_required: true}
    web2: {changed: false, commands: [], failed: true, msg: 'image: ...'}
plan:
  description: What changes on the host and in the machine, in the order in which it is done. In check mode what would.
  returned: success, without O(upgrade)
  type: list
  elements: dict
  sample:
    - {action: add, kind: directory, id: /var/lib/vmm-qemu/web1, changes: {}}
    - {action: add, kind: process, id: web1, changes: {}}
    - {action: add, kind: nic, id: net0, changes: {}}
  contains:
    action:
      description: V(add), V(change) or V(remove).
      type: str
    kind:
      description: What it is, such as V(image), V(tap), V(process) or V(disk).
      type: str
    id:
      description: Which one.
      type: str
    changes:
      description: The properties that differ, each with C(before) and C(after).
      type: dict
summary:
  description: How many things are added, changed, removed, and unchanged.
  returned: success, without O(upgrade)
  type: dict
  sample: {add: 9, change: 0, remove: 0, unchanged: 1}
msg:
  description: The summary as a line, or what failed.
  returned: always
  type: str
vm:
  description: Everything that was plugged in, as it is in the end, by kind and id, and the run state as C(status).
  returned: success, without O(upgrade)
  type: dict
instance:
  description: QEMU's process.
  returned: success
  type: dict
  contains:
    name:
      description: The virtual machine's name.
      type: str
    status:
      description: Its run state.
      type: str
    pid:
      description: The process.
      type: int
    socket:
      description: The monitor that this collection uses.
      type: str
    pidfile:
      description: The file with the process's number.
      type: str
    command_line:
      description: The command line, without secrets.
      type: list
      elements: str
restart_required:
  description: Whether it runs with other arguments than these options make.
  returned: success, without O(upgrade)
  type: bool
start_command:
  description: The command line that starts it with all that it has. Empty where nothing but this module shall.
  returned: success, with O(state=running)
  type: list
  elements: str
  sample: [/usr/bin/python3, -I, /var/lib/vmm-qemu/.code/0123456789abcdef, start, /var/lib/vmm-qemu/web1]
upgrade:
  description: From which QEMU to which one it has moved, or in check mode would.
  returned: success, with O(upgrade)
  type: dict
  sample: {from: 7.2.22 (Debian 1:7.2+dfsg-7), to: 10.0.2 (Debian 1:10.0.2+ds-2), method: migrate, downtime_ms: 31, total_ms: 1380}
  contains:
    from:
      description: The QEMU that ran, and its package. If nothing changes, the one that runs.
      type: str
    to:
      description: The QEMU that is installed.
      type: str
    method:
      description: How it moves, V(cpr) or V(migrate). Only when it does.
      type: str
    downtime_ms:
      description: How long the guest stood still, in milliseconds, as QEMU has measured it.
      type: int
    total_ms:
      description: How long the migration took, in milliseconds.
      type: int
seed_unread:
  description: Whether there is a new seed that the guest does not read, since its instance-id is the same.
  returned: success, with O(state=running)
  type: bool
instance_id:
  description: What cloud-init knows the virtual machine by, if it has a seed.
  returned: success, with O(state=running)
  type: str
image_needed:
  description: In check mode, where O(image) would be fetched to. Else where it has to be fetched to first, if that is why the task failed.
  returned: when that is so
  type: str
commands:
  description:
    - What was done on the host, and the commands that changed the virtual machine, in their order. In check mode what would be.
    - On the host C(run) is a command line, and C(action) something that the module did itself to C(path).
  returned: always
  type: list
  elements: dict
  sample:
    - {action: mkdir, path: /var/lib/vmm-qemu/web1}
    - {run: [systemctl, start, vmm-qemu-web1.service]}
    - {execute: cont, arguments: {}}
unverifiable:
  description: What was asked for and can't be read back from QEMU.
  returned: success, with O(state=running)
  type: list
  elements: str
rolled_back:
  description: What took back what was done before a step failed.
  returned: when something was taken back
  type: list
  elements: dict
not_rolled_back:
  description: What could not be taken back.
  returned: when that is so
  type: list
  elements: str
error:
  description: QEMU's own refusal.
  returned: when QEMU refused a command
  type: dict
  contains:
    class:
      description: QEMU's error class.
      type: str
    desc:
      description: QEMU's text.
      type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._vm.module import prepare, run, secrets
from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import OPTIONS

MODULE = Module(OPTIONS, run, secrets=secrets, monitor=False, many=True, prepare=prepare)
main = MODULE.main

if __name__ == "__main__":
    main()
