//! A pickle machine that knows five names and runs nothing.
//!
//! A pickle is a program for a small stack machine, and in Python any function may be its operand.
//! This machine has only the opcodes that `torch.save` writes and only the globals of [`Global`];
//! every other name is refused. Values are copies of scalars, slices of the file and indices into
//! four tables, so a cycle or a deep nesting costs nothing and each step a bounded amount.

use std::collections::{BTreeMap, HashMap};

use super::archive::{Element, Entry};

/// More steps than any of the published checkpoints takes, by a factor of 50.
const MAX_STEPS: usize = 1_000_000;

/// The names that may occur, all of them harmless: this code only notes that they were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// The dictionary of the authors' hyper-parameters.
    EasyDict,
    RebuildTensor,
    FloatStorage,
    LongStorage,
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, String> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("easydict", "EasyDict") => Self::EasyDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch", "FloatStorage") => Self::FloatStorage,
            ("torch", "LongStorage") => Self::LongStorage,
            _ => {
                let name: String = format!("{module}.{name}").escape_debug().take(120).collect();
                return Err(format!(
                    "its pickle asks for `{name}`, which is refused (nothing was run); readable are \
                     float32 and int64 tensors in dictionaries"
                ));
            }
        })
    }
}

#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// Something that no question here is about: None, booleans, floats, long integers.
    Other,
    Int(i64),
    Text(&'a str),
    Global(Global),
    /// Index into `sequences`: a list or a tuple.
    Sequence(usize),
    /// Index into `dicts`.
    Dict(usize),
    /// Index into `storages`.
    Storage(usize),
    /// Index into `tensors`.
    Tensor(usize),
}

impl Value<'_> {
    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Other => "a constant",
            Self::Int(_) => "a whole number",
            Self::Text(_) => "a text",
            Self::Global(_) => "a name",
            Self::Sequence(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// The stack machine; `rest` is what is left of the pickle.
#[derive(Default)]
pub(super) struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    sequences: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<(Element, &'a str, usize)>,
    tensors: Vec<Entry>,
}

impl<'a> Machine<'a> {
    /// Runs the pickle to its end; the value on top of the stack is the file's content.
    pub(super) fn run(pickle: &'a [u8]) -> Result<(Self, Value<'a>), String> {
        let mut machine = Self { rest: pickle, ..Self::default() };
        for _ in 0..MAX_STEPS {
            if let Some(value) = machine.step()? {
                return Ok((machine, value));
            }
        }
        Err(format!("its pickle takes more than {MAX_STEPS} steps"))
    }

    /// One opcode (Python's `pickletools` has the list); the result after the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => match self.byte()? {
                2 => {}
                other => return Err(format!("its pickle has protocol {other}, torch writes 2")),
            },
            b'(' => self.marks.push(self.stack.len()),
            b')' | b']' => self.push_sequence(Vec::new()),
            b'}' => self.push_dict(),
            b't' => {
                let items = self.since_mark()?;
                self.push_sequence(items);
            }
            n @ 0x85..=0x87 => {
                let mut items = vec![Value::Other; usize::from(n - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push_sequence(items);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_sequence(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend_sequence(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.extend_dict(&items)?;
            }
            op @ (b'q' | b'r' | b'h' | b'j') => self.memoise(op)?,
            b'R' | 0x81 => self.call()?,
            b'b' => {
                // The attributes of a dictionary: torch's versions, EasyDict's copies of its items.
                self.pop()?;
                self.top_dict()?;
            }
            b'Q' => self.storage()?,
            op => {
                let value = self.scalar(op)?;
                self.stack.push(value);
            }
        }
        Ok(None)
    }

    /// The value of an opcode that carries one.
    fn scalar(&mut self, op: u8) -> Result<Value<'a>, String> {
        Ok(match op {
            b'N' | 0x88 | 0x89 => Value::Other,
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            0x8a => {
                let length = self.byte()?.into();
                self.take(length)?;
                Value::Other
            }
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                let text = std::str::from_utf8(self.take(length)?);
                Value::Text(text.map_err(|error| error.to_string())?)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Global(Global::named(module, name)?)
            }
            _ => {
                let left = self.rest.len();
                return Err(format!(
                    "its pickle has opcode {op:#04x}, {left} bytes before its end, which torch.save never \
                     writes"
                ));
            }
        })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let cut =
            || format!("its pickle ends early: {length} bytes wanted, {} left", self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The text up to the next line feed.
    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.unwrap_or(self.rest.len()))?;
        self.byte()?;
        std::str::from_utf8(line).map_err(|error| error.to_string())
    }

    /// The topmost value above the last mark.
    fn pop(&mut self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| "its pickle takes a value from an empty stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("its pickle closes a group that it never opened")?;
        Ok(self.stack.split_off(mark))
    }

    fn push_sequence(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Sequence(self.sequences.len()));
        self.sequences.push(items);
    }

    fn push_dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    fn extend_sequence(&mut self, items: Vec<Value<'a>>) -> Result<(), String> {
        match self.stack.last() {
            Some(&Value::Sequence(at)) => self.sequences[at].extend(items),
            _ => return Err("its pickle appends to something that is no list".into()),
        }
        Ok(())
    }

    fn top_dict(&mut self) -> Result<usize, String> {
        match self.stack.last() {
            Some(&Value::Dict(at)) => Ok(at),
            _ => Err("its pickle sets items of something that is no dictionary".into()),
        }
    }

    /// Adds keys and values, in turn.
    fn extend_dict(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let at = self.top_dict()?;
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err("its pickle has a key without a value".into());
        }
        self.dicts[at].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    /// Puts the top into the memo (`q`, `r`), or fetches from it (`h`, `j`), by a short or a long number.
    fn memoise(&mut self, op: u8) -> Result<(), String> {
        let id = match op {
            b'q' | b'h' => self.byte()?.into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(op, b'q' | b'r') {
            let top = self.stack.last().ok_or("its pickle remembers a value of an empty stack")?;
            self.memo.insert(id, *top);
        } else {
            let value =
                self.memo.get(&id).ok_or(format!("its pickle recalls {id}, never stored"))?;
            self.stack.push(*value);
        }
        Ok(())
    }

    /// "Calls" a global with arguments: makes an empty dictionary, or notes a tensor.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Sequence(arguments) = arguments else {
            return Err("its pickle calls something without a tuple of arguments".into());
        };
        match (callee, self.sequences[arguments].as_slice()) {
            (Value::Global(Global::OrderedDict | Global::EasyDict), []) => self.push_dict(),
            (Value::Global(Global::RebuildTensor), arguments) => {
                let tensor = self.tensor(arguments)?;
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(tensor);
            }
            (callee, arguments) => {
                return Err(format!(
                    "its pickle calls {} with {} arguments",
                    match callee {
                        Value::Global(global) => format!("{global:?}"),
                        other => other.kind().into(),
                    },
                    arguments.len()
                ));
            }
        }
        Ok(())
    }

    /// `('storage', type, key, location, length)` as a persistent id.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Sequence(at) = id else {
            return Err("its pickle refers to something outside that is no storage".into());
        };
        let (element, key, length) = match self.sequences[at].as_slice() {
            [
                Value::Text("storage"),
                Value::Global(kind),
                Value::Text(key),
                _,
                Value::Int(length),
            ] => {
                let length = usize::try_from(*length).map_err(|error| error.to_string())?;
                match kind {
                    Global::FloatStorage => (Element::F32, *key, length),
                    Global::LongStorage => (Element::I64, *key, length),
                    other => return Err(format!("its pickle has a storage of {other:?}")),
                }
            }
            other => return Err(format!("its pickle has a storage with {} fields", other.len())),
        };
        if key.len() > 64 {
            return Err(format!("its pickle has a storage with a name of {} bytes", key.len()));
        }
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push((element, key, length));
        Ok(())
    }

    /// The arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, and what only training needs.
    fn tensor(&self, arguments: &[Value<'a>]) -> Result<Entry, String> {
        let &[
            Value::Storage(storage),
            Value::Int(offset),
            Value::Sequence(shape),
            Value::Sequence(strides),
            _,
            _,
            ..,
        ] = arguments
        else {
            return Err(
                "its pickle makes a tensor without storage, offset, shape and strides".into()
            );
        };
        let (element, key, storage_len) = self.storages[storage];
        let entry = Entry {
            element,
            shape: self.ints(shape)?,
            strides: self.ints(strides)?,
            offset: usize::try_from(offset).map_err(|error| error.to_string())?,
            storage: key.into(),
            storage_len,
        };
        entry.validate()?;
        Ok(entry)
    }

    fn ints<T: TryFrom<i64>>(&self, sequence: usize) -> Result<Vec<T>, String> {
        let wrong = |found: &str| format!("its pickle has {found} where a whole number belongs");
        let int = |value: &Value<'a>| match value {
            Value::Int(n) => T::try_from(*n).ok().ok_or_else(|| wrong(&n.to_string())),
            other => Err(wrong(other.kind())),
        };
        self.sequences[sequence].iter().map(int).collect()
    }

    /// The value under a path of keys; the last of equal keys counts, as in Python.
    fn find(&self, root: Value<'a>, path: &[&str]) -> Option<Value<'a>> {
        path.iter().try_fold(root, |value, key| {
            let Value::Dict(at) = value else { return None };
            let mut pairs = self.dicts[at].iter().rev();
            pairs
                .find(|(name, _)| matches!(name, Value::Text(name) if name == key))
                .map(|pair| pair.1)
        })
    }

    /// A list of whole numbers among the hyper-parameters of a Lightning checkpoint.
    pub(super) fn setting(&self, root: Value<'a>, group: &[&str]) -> Option<Vec<i64>> {
        let path: Vec<_> = ["hyper_parameters"].iter().chain(group).copied().collect();
        match self.find(root, &path)? {
            Value::Sequence(at) => self.ints(at).ok(),
            _ => None,
        }
    }

    /// Every tensor by name: those of `state_dict` where there is one, else those of the file itself.
    pub(super) fn state_dict(&self, root: Value<'a>) -> Result<BTreeMap<String, Entry>, String> {
        let dict = self.find(root, &["state_dict"]).unwrap_or(root);
        let Value::Dict(at) = dict else {
            return Err("its pickle holds no dictionary of tensors".into());
        };
        let mut tensors = BTreeMap::new();
        for pair in &self.dicts[at] {
            let (Value::Text(name), Value::Tensor(tensor)) = *pair else {
                let (key, value) = (pair.0.kind(), pair.1.kind());
                return Err(format!(
                    "its state dict maps {key} to {value}, not a name to a tensor"
                ));
            };
            if tensors.insert(name.to_string(), self.tensors[tensor].clone()).is_some() {
                return Err(format!("its state dict has `{name}` twice"));
            }
        }
        Ok(tensors)
    }
}
