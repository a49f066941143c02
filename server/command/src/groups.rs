//! Tables that are made of a list for each group, joined by the compiler.

/// Rows of all groups.
pub(crate) const fn total<T>(groups: &[&[T]]) -> usize {
    let (mut total, mut group) = (0, 0);
    while group < groups.len() {
        total += groups[group].len();
        group += 1;
    }
    total
}

/// The rows of all groups, in order; `placeholder` stands nowhere if `LEN` is their [`total`].
pub(crate) const fn join<T: Copy, const LEN: usize>(groups: &[&[T]], placeholder: T) -> [T; LEN] {
    let mut joined = [placeholder; LEN];
    let (mut group, mut next) = (0, 0);
    while group < groups.len() {
        let mut index = 0;
        while index < groups[group].len() {
            joined[next] = groups[group][index];
            next += 1;
            index += 1;
        }
        group += 1;
    }
    joined
}
